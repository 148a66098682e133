"""Pub/Sub as Google's Python client offers it; PUBSUB_EMULATOR_HOST says where.

Usage: pubsub.py [PART OF A FEATURE'S NAME]
"""

import base64
import datetime
import http.server
import json
import os
import queue
import sys
import threading
import time

import grpc
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth import credentials
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1 import types
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1 import types as schema_types
from google.pubsub_v1.services.schema_service import SchemaServiceClient
from google.pubsub_v1.services.schema_service.transports import SchemaServiceGrpcTransport
from google.pubsub_v1.services.subscriber import SubscriberClient

from features import equal, feature, refuses, run, unique

PROJECT = "conformance"


class Context:
    """Clients, and resources that one feature alone uses."""

    def __init__(self):
        self.project = f"projects/{PROJECT}-{unique('p')}"
        self.publisher = pubsub_v1.PublisherClient()
        self.subscriber = pubsub_v1.SubscriberClient()

    def name(self, kind):
        return f"{self.project}/{kind}/{unique()}"

    def topic(self, **settings):
        name = self.name("topics")
        self.publisher.create_topic(request={"name": name, **settings})
        return name

    def subscription(self, topic, **settings):
        name = self.name("subscriptions")
        self.subscriber.create_subscription(request={"name": name, "topic": topic, **settings})
        return name

    def both(self, **settings):
        topic = self.topic()
        return topic, self.subscription(topic, **settings)

    def publish(self, topic, *data, **attributes):
        return [self.publisher.publish(topic, d, **attributes).result(20) for d in data]

    def pull(self, subscription, wanted=1, ack=True, seconds=15):
        """So many messages, pulled within some seconds."""
        found = []
        until = time.monotonic() + seconds
        while len(found) < wanted and time.monotonic() < until:
            try:
                answer = self.subscriber.pull(
                    request={"subscription": subscription, "max_messages": wanted - len(found)},
                    timeout=5,
                )
            except exceptions.DeadlineExceeded:
                continue
            found += answer.received_messages
        if ack and found:
            ids = [message.ack_id for message in found]
            self.subscriber.acknowledge(request={"subscription": subscription, "ack_ids": ids})
        equal(len(found), wanted)
        return found

    def nothing(self, subscription):
        """Checks that no message waits."""
        request = {"subscription": subscription, "max_messages": 10, "return_immediately": True}
        equal(list(self.subscriber.pull(request=request).received_messages), [])

    def stream(self, subscription, callback=None, **settings):
        """A streaming pull; its messages arrive in the queue that is returned."""
        arrived = queue.Queue()

        def take(message):
            if callback is None:
                message.ack()
            else:
                callback(message)
            arrived.put(message)

        return arrived, self.subscriber.subscribe(subscription, take, **settings)


def datas(messages):
    return [message.message.data for message in messages]


def mask(*paths):
    return field_mask_pb2.FieldMask(paths=paths)


def stamp(seconds_from_now):
    moment = timestamp_pb2.Timestamp()
    moment.FromDatetime(
        datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds_from_now)
    )
    return moment


# Topics.


@feature("topic: create and get")
def topic_create(s):
    topic = s.topic()
    equal(s.publisher.get_topic(request={"topic": topic}).name, topic)


@feature("topic: create twice is refused")
def topic_twice(s):
    topic = s.topic()
    refuses(exceptions.AlreadyExists, lambda: s.publisher.create_topic(request={"name": topic}))


@feature("topic: a malformed name is refused")
def topic_name(s):
    name = f"{s.project}/topics/goog-x"
    refuses(exceptions.InvalidArgument, lambda: s.publisher.create_topic(request={"name": name}))


@feature("topic: list in pages")
def topic_pages(s):
    topics = sorted(s.topic() for _ in range(5))
    pages = list(
        s.publisher.list_topics(request={"project": s.project, "page_size": 2}).pages
    )
    equal([len(page.topics) for page in pages], [2, 2, 1])
    equal(sorted(t.name for page in pages for t in page.topics), topics)


@feature("topic: labels by update mask")
def topic_labels(s):
    topic = s.topic(labels={"a": "1"})
    new = types.Topic(name=topic, labels={"b": "2"})
    s.publisher.update_topic(request={"topic": new, "update_mask": mask("labels")})
    equal(dict(s.publisher.get_topic(request={"topic": topic}).labels), {"b": "2"})


@feature("topic: message retention by update mask")
def topic_retention(s):
    topic = s.topic()
    new = types.Topic(name=topic, message_retention_duration=duration_pb2.Duration(seconds=3600))
    s.publisher.update_topic(
        request={"topic": new, "update_mask": mask("message_retention_duration")}
    )
    found = s.publisher.get_topic(request={"topic": topic}).message_retention_duration
    equal(found.total_seconds(), 3600)


@feature("topic: message storage policy is kept")
def topic_storage(s):
    policy = {"allowed_persistence_regions": ["europe-west1"]}
    topic = s.topic(message_storage_policy=policy)
    found = s.publisher.get_topic(request={"topic": topic}).message_storage_policy
    equal(list(found.allowed_persistence_regions), ["europe-west1"])


@feature("topic: delete")
def topic_delete(s):
    topic = s.topic()
    s.publisher.delete_topic(request={"topic": topic})
    refuses(exceptions.NotFound, lambda: s.publisher.get_topic(request={"topic": topic}))


@feature("topic: its subscriptions, in pages")
def topic_subscriptions(s):
    topic = s.topic()
    names = sorted(s.subscription(topic) for _ in range(3))
    request = {"topic": topic, "page_size": 2}
    equal(sorted(s.publisher.list_topic_subscriptions(request=request)), names)


@feature("topic: subscriptions outlive it")
def topic_gone(s):
    topic, subscription = s.both()
    s.publisher.delete_topic(request={"topic": topic})
    found = s.subscriber.get_subscription(request={"subscription": subscription})
    equal(found.topic, "_deleted-topic_")


@feature("topic: IAM policy set and got")
def topic_policy(s):
    topic = s.topic()
    policy = policy_pb2.Policy(
        bindings=[policy_pb2.Binding(role="roles/pubsub.viewer", members=["user:ann@example.com"])]
    )
    s.publisher.set_iam_policy(request={"resource": topic, "policy": policy})
    found = s.publisher.get_iam_policy(request={"resource": topic})
    equal([b.role for b in found.bindings], ["roles/pubsub.viewer"])


@feature("topic: IAM permissions tested")
def topic_permissions(s):
    request = {"resource": s.topic(), "permissions": ["pubsub.topics.publish"]}
    equal(
        list(s.publisher.test_iam_permissions(request=request).permissions),
        ["pubsub.topics.publish"],
    )


# Publishing.


@feature("publish: one message")
def publish_one(s):
    topic, subscription = s.both()
    (message_id,) = s.publish(topic, b"hello")
    (got,) = s.pull(subscription)
    equal((got.message.message_id, got.message.data), (message_id, b"hello"))


@feature("publish: attributes")
def publish_attributes(s):
    topic, subscription = s.both()
    s.publish(topic, b"", kind="note", lang="en")
    (got,) = s.pull(subscription)
    equal(dict(got.message.attributes), {"kind": "note", "lang": "en"})


@feature("publish: batches")
def publish_batch(s):
    topic, subscription = s.both()
    settings = types.BatchSettings(max_messages=100, max_latency=0.05)
    publisher = pubsub_v1.PublisherClient(settings)
    futures = [publisher.publish(topic, str(n).encode()) for n in range(500)]
    equal(len({future.result(20) for future in futures}), 500)
    equal(len(set(datas(s.pull(subscription, 500)))), 500)


@feature("publish: ordering keys")
def publish_ordered(s):
    topic, subscription = s.both(enable_message_ordering=True)
    publisher = pubsub_v1.PublisherClient(
        publisher_options=types.PublisherOptions(enable_message_ordering=True)
    )
    futures = [publisher.publish(topic, str(n).encode(), ordering_key="k") for n in range(20)]
    for future in futures:
        future.result(20)
    equal(datas(s.pull(subscription, 20)), [str(n).encode() for n in range(20)])


@feature("publish: resumed after an error of its key")
def publish_resume(s):
    topic = s.name("topics")
    publisher = pubsub_v1.PublisherClient(
        publisher_options=types.PublisherOptions(enable_message_ordering=True)
    )
    failed = publisher.publish(topic, b"x", ordering_key="k")
    refuses(exceptions.NotFound, lambda: failed.result(20))
    s.publisher.create_topic(request={"name": topic})
    publisher.resume_publish(topic, "k")
    publisher.publish(topic, b"y", ordering_key="k").result(20)


@feature("publish: flow control blocks")
def publish_flow(s):
    topic, subscription = s.both()
    flow = types.PublishFlowControl(
        message_limit=5, limit_exceeded_behavior=types.LimitExceededBehavior.BLOCK
    )
    publisher = pubsub_v1.PublisherClient(
        publisher_options=types.PublisherOptions(flow_control=flow)
    )
    futures = [publisher.publish(topic, b"x") for _ in range(30)]
    for future in futures:
        future.result(20)
    s.pull(subscription, 30)


@feature("publish: an empty message is refused")
def publish_empty(s):
    topic = s.topic()
    refuses(exceptions.InvalidArgument, lambda: s.publish(topic, b""))


@feature("publish: to a missing topic is refused")
def publish_missing(s):
    refuses(exceptions.NotFound, lambda: s.publish(s.name("topics"), b"x"))


@feature("publish: more than 1,000 messages are refused")
def publish_many(s):
    topic = s.topic()
    raw = {"topic": topic, "messages": [{"data": b"x"}] * 1001}
    refuses(exceptions.InvalidArgument, lambda: s.publisher.api.publish(request=raw))


# This client takes no more than 4 MiB from an emulator; that of Node is sent 9.9 MB.


@feature("publish: 3.9 MB arrive by streaming pull")
def publish_large(s):
    topic, subscription = s.both()
    arrived, stream = s.stream(subscription)
    s.publish(topic, b"x" * 3_900_000)
    equal(len(arrived.get(timeout=20).data), 3_900_000)
    stream.cancel()


@feature("publish: 3.9 MB arrive by pull")
def publish_large_pull(s):
    topic, subscription = s.both()
    s.publish(topic, b"x" * 3_900_000)
    equal([len(d) for d in datas(s.pull(subscription))], [3_900_000])


# Subscriptions.


@feature("subscription: create and get, with the service's defaults")
def subscription_create(s):
    topic, subscription = s.both()
    found = s.subscriber.get_subscription(request={"subscription": subscription})
    equal((found.topic, found.ack_deadline_seconds), (topic, 10))
    equal(found.message_retention_duration.total_seconds(), 7 * 86400)
    equal(found.state.name, "ACTIVE")


@feature("subscription: to a missing topic is refused")
def subscription_missing(s):
    refuses(exceptions.NotFound, lambda: s.subscription(s.name("topics")))


@feature("subscription: ack deadline by update mask, its bounds kept")
def subscription_deadline(s):
    _, subscription = s.both()

    def update(seconds):
        new = types.Subscription(name=subscription, ack_deadline_seconds=seconds)
        paths = mask("ack_deadline_seconds")
        request = {"subscription": new, "update_mask": paths}
        return s.subscriber.update_subscription(request=request)

    equal(update(60).ack_deadline_seconds, 60)
    refuses(exceptions.InvalidArgument, lambda: update(601))


@feature("subscription: labels by update mask")
def subscription_labels(s):
    _, subscription = s.both(labels={"a": "1"})
    new = types.Subscription(name=subscription, labels={"b": "2"})
    s.subscriber.update_subscription(request={"subscription": new, "update_mask": mask("labels")})
    found = s.subscriber.get_subscription(request={"subscription": subscription})
    equal(dict(found.labels), {"b": "2"})


@feature("subscription: retention and its bounds")
def subscription_retention(s):
    day = duration_pb2.Duration(seconds=86400)
    topic, subscription = s.both(message_retention_duration=day, retain_acked_messages=True)
    found = s.subscriber.get_subscription(request={"subscription": subscription})
    equal(found.message_retention_duration.total_seconds(), 86400)
    equal(found.retain_acked_messages, True)
    short = duration_pb2.Duration(seconds=5)
    refuses(
        exceptions.InvalidArgument,
        lambda: s.subscription(topic, message_retention_duration=short),
    )


@feature("subscription: expiration policy")
def subscription_expiration(s):
    ttl = duration_pb2.Duration(seconds=14 * 86400)
    _, subscription = s.both(expiration_policy={"ttl": ttl})
    found = s.subscriber.get_subscription(request={"subscription": subscription})
    equal(found.expiration_policy.ttl.total_seconds(), 14 * 86400)


@feature("subscription: retry policy set and cleared by mask")
def subscription_retry(s):
    policy = {"minimum_backoff": duration_pb2.Duration(seconds=20)}
    _, subscription = s.both(retry_policy=policy)
    found = s.subscriber.get_subscription(request={"subscription": subscription})
    equal(found.retry_policy.minimum_backoff.total_seconds(), 20)
    new = types.Subscription(name=subscription)
    request = {"subscription": new, "update_mask": mask("retry_policy")}
    cleared = s.subscriber.update_subscription(request=request)
    equal("retry_policy" in cleared, False)


@feature("subscription: dead letters after five attempts")
def subscription_dead_letter(s):
    dead, topic = s.topic(), s.topic()
    watcher = s.subscription(dead)
    policy = {"dead_letter_topic": dead, "max_delivery_attempts": 5}
    subscription = s.subscription(topic, dead_letter_policy=policy)
    s.publish(topic, b"bad")
    for attempt in range(1, 6):
        (got,) = s.pull(subscription, ack=False)
        equal(got.delivery_attempt, attempt)
        request = {
            "subscription": subscription,
            "ack_ids": [got.ack_id],
            "ack_deadline_seconds": 0,
        }
        s.subscriber.modify_ack_deadline(request=request)
    (forwarded,) = s.pull(watcher)
    equal(forwarded.message.data, b"bad")


@feature("subscription: list in pages")
def subscription_pages(s):
    topic = s.topic()
    names = sorted(s.subscription(topic) for _ in range(5))
    request = {"project": s.project, "page_size": 2}
    pages = list(s.subscriber.list_subscriptions(request=request).pages)
    equal([len(page.subscriptions) for page in pages], [2, 2, 1])
    equal(sorted(x.name for page in pages for x in page.subscriptions), names)


@feature("subscription: delete")
def subscription_delete(s):
    _, subscription = s.both()
    s.subscriber.delete_subscription(request={"subscription": subscription})
    request = {"subscription": subscription}
    refuses(exceptions.NotFound, lambda: s.subscriber.get_subscription(request=request))


@feature("subscription: a fixed field is not updated")
def subscription_fixed(s):
    _, subscription = s.both()
    new = types.Subscription(name=subscription, enable_message_ordering=True)
    request = {"subscription": new, "update_mask": mask("enable_message_ordering")}
    refuses(
        exceptions.InvalidArgument, lambda: s.subscriber.update_subscription(request=request)
    )


@feature("subscription: detach")
def subscription_detach(s):
    topic, subscription = s.both()
    s.publisher.detach_subscription(request={"subscription": subscription})
    found = s.subscriber.get_subscription(request={"subscription": subscription})
    equal(found.detached, True)
    equal(list(s.publisher.list_topic_subscriptions(request={"topic": topic})), [])
    request = {"subscription": subscription, "max_messages": 1}
    refuses(exceptions.FailedPrecondition, lambda: s.subscriber.pull(request=request))


@feature("subscription: IAM permissions tested")
def subscription_permissions(s):
    _, subscription = s.both()
    request = {"resource": subscription, "permissions": ["pubsub.subscriptions.consume"]}
    equal(
        list(s.subscriber.test_iam_permissions(request=request).permissions),
        ["pubsub.subscriptions.consume"],
    )


# Filters.


def filtered(s, text, messages):
    """Which of the messages a filter lets through."""
    topic, subscription = s.both(filter=text)
    for data, attributes in messages.items():
        s.publish(topic, data, **attributes)
    s.publish(topic, b"end", end="yes", a="1", b="x")
    found = []
    while b"end" not in found:
        found += datas(s.pull(subscription))
    return sorted(set(found) - {b"end"})


@feature("filter: equal")
def filter_equal(s):
    found = filtered(s, 'attributes.a = "1"', {b"one": {"a": "1"}, b"two": {"a": "2"}})
    equal(found, [b"one"])


@feature("filter: not equal")
def filter_not_equal(s):
    messages = {b"one": {"a": "1"}, b"two": {"a": "2"}, b"none": {"b": "1"}}
    found = filtered(s, 'attributes.a != "2"', messages)
    equal(b"two" in found, False)
    equal(b"one" in found, True)


@feature("filter: has a key, and a prefix")
def filter_prefix(s):
    text = 'attributes:b AND hasPrefix(attributes.b, "x")'
    found = filtered(s, text, {b"one": {"b": "xy"}, b"two": {"b": "yx"}, b"none": {"a": "x"}})
    equal(found, [b"one"])


@feature("filter: NOT, OR and parentheses")
def filter_compound(s):
    text = '(attributes.a = "1" OR attributes:c) AND NOT attributes:d'
    messages = {b"one": {"a": "1"}, b"two": {"c": "x"}, b"no": {"a": "1", "d": "x"}}
    equal(filtered(s, text, messages), [b"one", b"two"])


@feature("filter: a malformed one is refused")
def filter_malformed(s):
    topic = s.topic()
    refuses(exceptions.InvalidArgument, lambda: s.subscription(topic, filter="attributes.a ="))


# Receiving.


@feature("pull: nothing waits, return immediately")
def pull_nothing(s):
    _, subscription = s.both()
    s.nothing(subscription)


@feature("pull: acknowledged messages do not come again")
def pull_ack(s):
    topic, subscription = s.both()
    s.publish(topic, b"a", b"b")
    s.pull(subscription, 2)
    s.nothing(subscription)


@feature("pull: a deadline of zero gives back")
def pull_nack(s):
    topic, subscription = s.both()
    s.publish(topic, b"a")
    (got,) = s.pull(subscription, ack=False)
    request = {"subscription": subscription, "ack_ids": [got.ack_id], "ack_deadline_seconds": 0}
    s.subscriber.modify_ack_deadline(request=request)
    (again,) = s.pull(subscription)
    equal(again.message.message_id, got.message.message_id)


@feature("pull: an extended deadline keeps the message away")
def pull_extend(s):
    topic, subscription = s.both()
    s.publish(topic, b"a")
    (got,) = s.pull(subscription, ack=False)
    request = {"subscription": subscription, "ack_ids": [got.ack_id], "ack_deadline_seconds": 60}
    s.subscriber.modify_ack_deadline(request=request)
    s.nothing(subscription)


@feature("streaming pull: received and acknowledged")
def stream_ack(s):
    topic, subscription = s.both()
    arrived, stream = s.stream(subscription)
    s.publish(topic, *(str(n).encode() for n in range(50)))
    equal(len({arrived.get(timeout=15).data for _ in range(50)}), 50)
    stream.cancel()
    stream.result(15)


@feature("streaming pull: a nack brings it again")
def stream_nack(s):
    topic, subscription = s.both()
    seen = []

    def callback(message):
        seen.append(message.message_id)
        message.nack() if len(seen) == 1 else message.ack()

    arrived, stream = s.stream(subscription, callback)
    s.publish(topic, b"a")
    equal(arrived.get(timeout=15).message_id, arrived.get(timeout=15).message_id)
    stream.cancel()


@feature("streaming pull: flow control")
def stream_flow(s):
    topic, subscription = s.both()
    held = []
    release = threading.Event()

    def callback(message):
        held.append(len(held))
        release.wait(10)
        message.ack()

    s.publish(topic, *(b"x" for _ in range(10)))
    flow = types.FlowControl(max_messages=2)
    arrived, stream = s.stream(subscription, callback, flow_control=flow)
    until = time.monotonic() + 10
    while len(held) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    equal(len(held), 2)
    release.set()
    for _ in range(10):
        arrived.get(timeout=15)
    stream.cancel()


@feature("streaming pull: order within a key")
def stream_ordered(s):
    topic, subscription = s.both(enable_message_ordering=True)
    publisher = pubsub_v1.PublisherClient(
        publisher_options=types.PublisherOptions(enable_message_ordering=True)
    )
    arrived, stream = s.stream(subscription)
    for n in range(30):
        publisher.publish(topic, str(n).encode(), ordering_key="k")
    equal([int(arrived.get(timeout=15).data) for _ in range(30)], list(range(30)))
    stream.cancel()


@feature("streaming pull: a missing subscription is told")
def stream_missing(s):
    _, stream = s.stream(s.name("subscriptions"))
    refuses(exceptions.NotFound, lambda: stream.result(15))


@feature("exactly once: an acknowledgement is confirmed")
def exactly_once_ack(s):
    topic, subscription = s.both(enable_exactly_once_delivery=True)
    results = queue.Queue()
    _, stream = s.stream(subscription, lambda m: results.put(m.ack_with_response()))
    s.publish(topic, b"a")
    equal(results.get(timeout=15).result(15).name, "SUCCESS")
    stream.cancel()


@feature("exactly once: a nack is confirmed, and brings it again")
def exactly_once_nack(s):
    topic, subscription = s.both(enable_exactly_once_delivery=True)
    results = queue.Queue()
    first = threading.Event()

    def callback(message):
        if first.is_set():
            results.put(message.ack_with_response())
        else:
            first.set()
            results.put(message.nack_with_response())

    _, stream = s.stream(subscription, callback)
    s.publish(topic, b"a")
    for _ in range(2):
        equal(results.get(timeout=15).result(15).name, "SUCCESS")
    stream.cancel()


@feature("exactly once: a used-up ack ID fails")
def exactly_once_stale(s):
    topic, subscription = s.both(enable_exactly_once_delivery=True)
    s.publish(topic, b"a")
    (got,) = s.pull(subscription, ack=False)
    ids = {"subscription": subscription, "ack_ids": [got.ack_id]}
    s.subscriber.modify_ack_deadline(request={**ids, "ack_deadline_seconds": 0})
    s.pull(subscription, ack=False)
    refuses(exceptions.FailedPrecondition, lambda: s.subscriber.acknowledge(request=ids))


# Seeking and snapshots.


@feature("seek: to a time before, acknowledged messages come again")
def seek_back(s):
    topic, subscription = s.both(retain_acked_messages=True)
    s.publish(topic, b"a", b"b")
    s.pull(subscription, 2)
    s.subscriber.seek(request={"subscription": subscription, "time": stamp(-60)})
    equal(sorted(datas(s.pull(subscription, 2))), [b"a", b"b"])


@feature("seek: to a time ahead, everything is acknowledged")
def seek_ahead(s):
    topic, subscription = s.both()
    s.publish(topic, b"a", b"b")
    s.subscriber.seek(request={"subscription": subscription, "time": stamp(60)})
    s.nothing(subscription)


@feature("snapshot: create, get and list")
def snapshot_create(s):
    topic, subscription = s.both()
    name = s.name("snapshots")
    made = s.subscriber.create_snapshot(request={"name": name, "subscription": subscription})
    equal((made.name, made.topic), (name, topic))
    equal(s.subscriber.get_snapshot(request={"snapshot": name}).topic, topic)
    listed = s.subscriber.list_snapshots(request={"project": s.project})
    equal([snapshot.name for snapshot in listed], [name])
    equal(list(s.publisher.list_topic_snapshots(request={"topic": topic})), [name])


@feature("snapshot: labels by update mask")
def snapshot_labels(s):
    _, subscription = s.both()
    name = s.name("snapshots")
    s.subscriber.create_snapshot(request={"name": name, "subscription": subscription})
    new = types.Snapshot(name=name, labels={"a": "1"})
    request = {"snapshot": new, "update_mask": mask("labels")}
    equal(dict(s.subscriber.update_snapshot(request=request).labels), {"a": "1"})


@feature("snapshot: seek to it")
def snapshot_seek(s):
    topic, subscription = s.both()
    s.publish(topic, b"before")
    name = s.name("snapshots")
    s.subscriber.create_snapshot(request={"name": name, "subscription": subscription})
    s.publish(topic, b"after")
    s.pull(subscription, 2)
    s.subscriber.seek(request={"subscription": subscription, "snapshot": name})
    equal(sorted(datas(s.pull(subscription, 2))), [b"after", b"before"])


@feature("snapshot: delete")
def snapshot_delete(s):
    _, subscription = s.both()
    name = s.name("snapshots")
    s.subscriber.create_snapshot(request={"name": name, "subscription": subscription})
    s.subscriber.delete_snapshot(request={"snapshot": name})
    request = {"snapshot": name}
    refuses(exceptions.NotFound, lambda: s.subscriber.delete_snapshot(request=request))


# Push.


class Endpoint:
    """An HTTP server that takes what is pushed to it."""

    def __init__(self, statuses=()):
        statuses = list(statuses)
        self.taken = queue.Queue()
        taken = self.taken

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.put((body, dict(self.headers.items())))
                self.send_response(statuses.pop(0) if statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/push"


@feature("push: delivered to a loopback URL")
def push_delivers(s):
    endpoint = Endpoint()
    topic, subscription = s.both(push_config={"push_endpoint": endpoint.url})
    s.publish(topic, b"pushed", kind="note")
    body, _ = endpoint.taken.get(timeout=15)
    envelope = json.loads(body)
    equal(envelope["subscription"], subscription)
    equal(base64.b64decode(envelope["message"]["data"]), b"pushed")
    equal(envelope["message"]["attributes"], {"kind": "note"})


@feature("push: an error brings it again")
def push_again(s):
    endpoint = Endpoint([500])
    topic, _ = s.both(push_config={"push_endpoint": endpoint.url})
    s.publish(topic, b"pushed")
    first, _ = endpoint.taken.get(timeout=15)
    second, _ = endpoint.taken.get(timeout=15)
    ids = [json.loads(body)["message"]["messageId"] for body in (first, second)]
    equal(ids[0], ids[1])


@feature("push: without a wrapper")
def push_unwrapped(s):
    endpoint = Endpoint()
    config = {"push_endpoint": endpoint.url, "no_wrapper": {"write_metadata": True}}
    topic, _ = s.both(push_config=config)
    s.publish(topic, b"bare", kind="note")
    body, headers = endpoint.taken.get(timeout=15)
    equal(body, b"bare")
    equal({k.lower(): v for k, v in headers.items()}.get("x-goog-pubsub-attr-kind"), None)


@feature("push: config modified to pull and back")
def push_modified(s):
    endpoint = Endpoint()
    topic, subscription = s.both(push_config={"push_endpoint": endpoint.url})
    s.subscriber.modify_push_config(request={"subscription": subscription, "push_config": {}})
    s.publish(topic, b"pulled")
    equal(datas(s.pull(subscription)), [b"pulled"])
    request = {"subscription": subscription, "push_config": {"push_endpoint": endpoint.url}}
    s.subscriber.modify_push_config(request=request)
    s.publish(topic, b"pushed")
    endpoint.taken.get(timeout=15)


# Schemas, and what is beside the messages.

def schema_transport():
    host = os.environ["PUBSUB_EMULATOR_HOST"]
    return SchemaServiceGrpcTransport(host=host, channel=grpc.insecure_channel(host))


AVRO = json.dumps(
    {"type": "record", "name": "Note", "fields": [{"name": "text", "type": "string"}]}
)


@feature("schema: create, get, list and delete")
def schema_create(s):
    schemas = SchemaServiceClient(transport=schema_transport())
    schema = schema_types.Schema(type_=schema_types.Schema.Type.AVRO, definition=AVRO)
    request = {"parent": s.project, "schema": schema, "schema_id": unique()}
    made = schemas.create_schema(request=request)
    equal(schemas.get_schema(request={"name": made.name}).definition, AVRO)
    schemas.delete_schema(request={"name": made.name})


@feature("schema: a topic refuses what does not fit")
def schema_topic(s):
    schemas = SchemaServiceClient(transport=schema_transport())
    schema = schema_types.Schema(type_=schema_types.Schema.Type.AVRO, definition=AVRO)
    request = {"parent": s.project, "schema": schema, "schema_id": unique()}
    made = schemas.create_schema(request=request)
    topic = s.topic(schema_settings={"schema": made.name, "encoding": schema_types.Encoding.JSON})
    s.publish(topic, b'{"text": "x"}')
    refuses(exceptions.InvalidArgument, lambda: s.publish(topic, b'{"other": 1}'))


# REST, on the same port.


def rest(kind):
    """A client that speaks REST to where the emulator is."""
    transport = kind.get_transport_class("rest")(
        host=os.environ["PUBSUB_EMULATOR_HOST"],
        credentials=credentials.AnonymousCredentials(),
        url_scheme="http",
    )
    return kind(transport=transport)


@feature("REST: topics and subscriptions")
def rest_admin(s):
    publisher, subscriber = rest(PublisherClient), rest(SubscriberClient)
    topic, subscription = s.name("topics"), s.name("subscriptions")
    publisher.create_topic(request={"name": topic})
    request = {"name": subscription, "topic": topic, "ack_deadline_seconds": 30}
    equal(subscriber.create_subscription(request=request).ack_deadline_seconds, 30)
    equal([t.name for t in publisher.list_topics(request={"project": s.project})], [topic])
    subscriber.delete_subscription(request={"subscription": subscription})
    publisher.delete_topic(request={"topic": topic})


@feature("REST: publish")
def rest_publish(s):
    topic, subscription = s.both()
    message = {"data": b"x", "attributes": {"kind": "note"}}
    answer = rest(PublisherClient).publish(request={"topic": topic, "messages": [message]})
    (got,) = s.pull(subscription)
    equal([got.message.message_id], list(answer.message_ids))
    equal(dict(got.message.attributes), {"kind": "note"})


@feature("REST: pull, modify deadlines, acknowledge")
def rest_pull(s):
    topic, subscription = s.both()
    s.publish(topic, b"x")
    subscriber = rest(SubscriberClient)
    request = {"subscription": subscription, "max_messages": 5}
    (got,) = subscriber.pull(request=request).received_messages
    equal(got.message.data, b"x")
    ids = {"subscription": subscription, "ack_ids": [got.ack_id]}
    subscriber.modify_ack_deadline(request={**ids, "ack_deadline_seconds": 30})
    subscriber.acknowledge(request=ids)
    s.nothing(subscription)


@feature("REST: seek and snapshots")
def rest_snapshots(s):
    _, subscription = s.both()
    subscriber, name = rest(SubscriberClient), s.name("snapshots")
    subscriber.create_snapshot(request={"name": name, "subscription": subscription})
    subscriber.seek(request={"subscription": subscription, "snapshot": name})
    subscriber.delete_snapshot(request={"snapshot": name})


@feature("subscription: retry and dead-letter policies over REST")
def rest_policies(s):
    topic, dead = s.topic(), s.topic()
    request = {
        "name": s.name("subscriptions"),
        "topic": topic,
        "dead_letter_policy": {"dead_letter_topic": dead, "max_delivery_attempts": 7},
        "retry_policy": {"minimum_backoff": duration_pb2.Duration(seconds=1)},
        "enable_exactly_once_delivery": True,
    }
    made = rest(SubscriberClient).create_subscription(request=request)
    equal(made.dead_letter_policy.max_delivery_attempts, 7)
    equal(made.enable_exactly_once_delivery, True)


@feature("topic: KMS key name is kept")
def topic_key(s):
    key = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
    topic = s.topic(kms_key_name=key)
    equal(s.publisher.get_topic(request={"topic": topic}).kms_key_name, key)


if __name__ == "__main__":
    run(Context, sys.argv[1] if len(sys.argv) > 1 else "")
    os._exit(0)  # Streams that hang are left behind.
