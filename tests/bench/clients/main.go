// A Pub/Sub worker that acts as its users, on Google's clients for Go: what a replica of the fleet
// is measured beside. A user's credential is read from the bucket once and kept in memory;
// golang.org/x/oauth2 renews it.
//
// It keeps to the interfaces that the clients have had since 2020 and builds with Debian's copies
// of them (golang-google-cloud-dev). A token is sent to FLEET_API_ROOT whatever host a job names.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub"
	"cloud.google.com/go/storage"
	"golang.org/x/oauth2"
	"google.golang.org/api/option"
)

type job struct {
	User   string `json:"user"`
	Kind   string `json:"kind"`
	Params struct {
		URL      string `json:"url"`
		Paginate bool   `json:"paginate"`
		Output   string `json:"output"`
	} `json:"params"`
}

type worker struct {
	root, handler string
	http          *http.Client
	tokens        *storage.BucketHandle
	storage       *storage.Client
	users         sync.Map
}

// user is a user's source of tokens, which is made by whoever asks for it first.
type user struct {
	once   sync.Once
	source oauth2.TokenSource
	err    error
}

func (w *worker) token(ctx context.Context, id string) (string, error) {
	kept, _ := w.users.LoadOrStore(id, &user{})
	u := kept.(*user)
	u.once.Do(func() { u.source, u.err = w.load(id) })
	if u.err != nil {
		return "", u.err
	}
	token, err := u.source.Token()
	if err != nil {
		return "", err
	}
	return token.AccessToken, nil
}

func (w *worker) load(id string) (oauth2.TokenSource, error) {
	ctx := context.Background()
	object, err := w.tokens.Object("users/" + id + ".json").NewReader(ctx)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	var c struct {
		Token        string    `json:"token"`
		RefreshToken string    `json:"refresh_token"`
		TokenURI     string    `json:"token_uri"`
		ClientID     string    `json:"client_id"`
		ClientSecret string    `json:"client_secret"`
		Expiry       time.Time `json:"expiry"`
	}
	if err := json.NewDecoder(object).Decode(&c); err != nil {
		return nil, err
	}
	config := &oauth2.Config{
		ClientID: c.ClientID, ClientSecret: c.ClientSecret,
		Endpoint: oauth2.Endpoint{TokenURL: c.TokenURI},
	}
	token := &oauth2.Token{AccessToken: c.Token, RefreshToken: c.RefreshToken, Expiry: c.Expiry}
	return config.TokenSource(ctx, token), nil
}

func (w *worker) get(ctx context.Context, address, token string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, "GET", address, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	return w.do(request)
}

func (w *worker) do(request *http.Request) ([]byte, error) {
	answer, err := w.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s", answer.Status)
	}
	return io.ReadAll(answer.Body)
}

func (w *worker) work(ctx context.Context, data []byte) error {
	var j job
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	if j.Kind == "forwarded" {
		request, err := http.NewRequestWithContext(ctx, "POST", w.handler, bytes.NewReader(data))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		_, err = w.do(request)
		return err
	}
	token, err := w.token(ctx, j.User)
	if err != nil {
		return err
	}
	asked, err := url.Parse(j.Params.URL)
	if err != nil {
		return err
	}
	address := w.root + asked.RequestURI()
	if j.Params.Output != "" && !j.Params.Paginate {
		return w.copy(ctx, address, token, j.Params.Output)
	}
	content, err := w.get(ctx, address, token)
	if err != nil || !j.Params.Paginate {
		return err
	}
	var lines bytes.Buffer
	for {
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"nextPageToken"`
		}
		if err := json.Unmarshal(content, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			lines.Write(item)
			lines.WriteByte('\n')
		}
		if page.Next == "" {
			break
		}
		next := w.root + asked.Path + "?pageToken=" + url.QueryEscape(page.Next)
		if content, err = w.get(ctx, next, token); err != nil {
			return err
		}
	}
	return w.write(ctx, j.Params.Output, &lines)
}

// copy streams an answer into an object.
func (w *worker) copy(ctx context.Context, address, token, output string) error {
	request, err := http.NewRequestWithContext(ctx, "GET", address, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := w.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s", answer.Status)
	}
	return w.write(ctx, output, answer.Body)
}

func (w *worker) write(ctx context.Context, output string, content io.Reader) error {
	path := strings.SplitN(strings.TrimPrefix(output, "gs://"), "/", 2)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	object := w.storage.Bucket(path[0]).Object(path[1]).If(storage.Conditions{DoesNotExist: true})
	writer := object.NewWriter(ctx)
	// In one request, which keeps no copy of the content.
	writer.ChunkSize = 0
	if _, err := io.Copy(writer, content); err != nil {
		return err
	}
	return writer.Close()
}

func main() {
	ctx := context.Background()
	slots, err := strconv.Atoi(os.Getenv("BENCH_SLOTS"))
	if err != nil {
		log.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = slots
	client := &http.Client{Transport: transport}
	// The variable is of emulators without TLS; the endpoint says it all.
	root := os.Getenv("STORAGE_EMULATOR_HOST")
	os.Unsetenv("STORAGE_EMULATOR_HOST")
	objects, err := storage.NewClient(ctx, option.WithHTTPClient(&http.Client{
		Transport: elsewhere{root: root, next: transport},
	}))
	if err != nil {
		log.Fatal(err)
	}
	w := &worker{
		root:    os.Getenv("FLEET_API_ROOT"),
		handler: os.Getenv("BENCH_HANDLER"),
		http:    client,
		storage: objects,
		tokens:  objects.Bucket(os.Getenv("FLEET_BUCKET")),
	}
	messages, err := pubsub.NewClient(ctx, os.Getenv("GOOGLE_CLOUD_PROJECT"))
	if err != nil {
		log.Fatal(err)
	}
	name := os.Getenv("FLEET_SUBSCRIPTION")
	subscription := messages.Subscription(name[strings.LastIndex(name, "/")+1:])
	subscription.ReceiveSettings.MaxOutstandingMessages = slots
	subscription.ReceiveSettings.NumGoroutines = 1
	log.Fatal(subscription.Receive(ctx, func(ctx context.Context, message *pubsub.Message) {
		if err := w.work(ctx, message.Data); err != nil {
			log.Print(err)
			message.Nack()
			return
		}
		message.Ack()
	}))
}

// elsewhere sends what is meant for Cloud Storage to the emulator: not every release of the client
// takes the address of one with TLS for all of its requests.
type elsewhere struct {
	root string
	next http.RoundTripper
}

func (e elsewhere) RoundTrip(request *http.Request) (*http.Response, error) {
	there, err := url.Parse(e.root)
	if err != nil {
		return nil, err
	}
	request = request.Clone(request.Context())
	request.URL.Scheme, request.URL.Host, request.Host = there.Scheme, there.Host, there.Host
	return e.next.RoundTrip(request)
}
