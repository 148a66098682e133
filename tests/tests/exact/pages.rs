//! Answers that come in pages.

use serde_json::json;

use super::server::{answer, json as json_answer};
use super::{EXPORTS, Scene, call};

#[tokio::test]
async fn pages_that_are_cut_empty_or_deep() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let first =
        |next: &str| json_answer(&format!("{{\"a\": [1.0], \"nextPageToken\": \"{next}\"}}"));
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let none = "HTTP/1.1 204 No\r\nconnection: close\r\n\r\n";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\nconnection: close\r\n\r\n{\"a\": [2";
    scene.api.at("/cut", [first("2"), cut.into(), first("2"), json_answer("{\"a\": [2e0]}")]);
    scene.api.at("/half", [first("2"), json_answer("{\"a\": [2"), first("2"), json_answer("{}")]);
    scene.api.at("/none", [first("2"), none.into()]);
    scene.api.at("/empty", [first("2"), answer("200", "", "")]);
    scene.api.at("/deep", [first("2"), json_answer(&format!("{{\"a\": [{deep}]}}"))]);
    scene.api.at("/list", [first("2"), json_answer("[1]")]);
    let names = ["cut", "half", "none", "empty", "deep", "list"];
    let mut jobs: Vec<String> = names
        .iter()
        .map(|name| {
            let more = json!({"paginate": true, "query": {"q": "a b", "fields": "*"}});
            call(name, &format!("/{name}?x=%28+%2c"), &more)
        })
        .collect();
    scene.api.at("/lines", [first("2"), json_answer(&format!("{{\"a\": [{deep} , 1e400]}}"))]);
    let output = format!("gs://{EXPORTS}/lines");
    jobs.push(call("lines", "/lines", &json!({"paginate": true, "output": output})));
    let told = scene.outcomes(&jobs, &[]).await?;
    told["cut"].assert_done("{\"a\":[1.0,2e0]}");
    assert_eq!(scene.api.sent_to("/cut").len(), 4, "from the first page on");
    let second = &scene.api.sent_to("/cut")[1].line;
    assert_eq!(second, "GET /cut?x=%28+%2c&fields=*&q=a+b&pageToken=2");
    for name in ["half", "none", "empty"] {
        told[name].assert_done("{\"a\":[1.0]}");
    }
    told["deep"].assert_done(&format!("{{\"a\":[1.0,{deep}]}}"));
    told["list"].assert_rejected("a page is not a JSON object");
    assert_eq!(told["lines"].outcome["result"]["pages"], 2, "{}", told["lines"].text);
    let stored = scene.stage.cloud.object(EXPORTS, "lines").await?;
    assert_eq!(stored, format!("1.0\n{deep}\n1e400\n"));
    Ok(())
}

/// With every page a condition would end the job on a later one, and take what had come with it.
#[tokio::test]
async fn a_condition_is_asked_of_the_first_page_alone() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let first = json_answer("{\"a\": [1.0], \"nextPageToken\": \"2\"}");
    let headers =
        json!({"If-None-Match": "\"7\"", "If-Match": "\"8\"", "X-Goog-User-Project": "p"});
    let laters = [("pages", json_answer("{\"a\": [2.0]}")), ("unchanged", answer("304", "", ""))];
    let (mut ids, mut jobs) = (Vec::new(), Vec::new());
    for (name, later) in laters {
        for place in ["result", "object"] {
            let id = format!("{name}-{place}");
            scene.api.at(&format!("/{id}"), [first.clone(), later.clone()]);
            let mut more = json!({"paginate": true, "headers": headers});
            if place == "object" {
                more["output"] = format!("gs://{EXPORTS}/{id}").into();
            }
            jobs.push(call(&id, &format!("/{id}"), &more));
            ids.push(id);
        }
    }
    let told = scene.outcomes(&jobs, &[]).await?;
    for id in ids {
        let sent = scene.api.sent_to(&format!("/{id}"));
        let heads: Vec<&str> = sent.iter().map(|request| request.head.as_str()).collect();
        assert_eq!(heads.len(), 2, "{id}: {heads:?}");
        let conditions = ["if-none-match: \"7\"", "if-match: \"8\""];
        assert!(conditions.iter().all(|condition| heads[0].contains(condition)), "{}", heads[0]);
        assert!(!heads[1].contains("match"), "{}", heads[1]);
        assert!(heads.iter().all(|head| head.contains("x-goog-user-project: p")), "{heads:?}");
    }
    told["pages-result"].assert_done("{\"a\":[1.0,2.0]}");
    for id in ["unchanged-result", "unchanged-object"] {
        told[id].assert_rejected("says of a later page that it has not changed");
        assert_eq!(told[id].outcome["http_status"], 304);
    }
    assert_eq!(scene.stage.cloud.objects(EXPORTS, "").await?, ["pages-object"]);
    assert_eq!(scene.stage.cloud.object(EXPORTS, "pages-object").await?, "1.0\n2.0\n");
    Ok(())
}
