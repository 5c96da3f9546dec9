//! The OpenAPI document of the server matches the paths that it serves.

use serde_json::Value;

use crate::harness::{Host, Netns, run};

fn get(host: &Host, path: &str) -> (String, String) {
    let url = format!("http://vswitch{path}");
    let format = ["-sS", "-w", "\n%{http_code}", "--unix-socket"];
    let outcome = run(host.netns.command("curl").args(format).arg(host.socket()).arg(url));
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let (body, status) = outcome.stdout.rsplit_once('\n').expect("a body and a status");
    (body.to_owned(), status.to_owned())
}

#[test]
fn every_get_path_of_the_document_is_served() {
    let host = Host::up(&[]);
    let a = Netns::new("a");
    let at_a = host.attach(&a, &[]);
    let (body, status) = get(&host, "/openapi.json");
    let document: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status.as_str(), document["openapi"].as_str().map(|version| &version[..2])), ("200", Some("3.")));
    let mut requested = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let Some(operation) = operations.get("get") else { continue };
        // A stream of events does not end, so its body cannot be read to the end.
        if operation["responses"]["200"]["content"].get("application/x-ndjson").is_some() {
            continue;
        }
        let path = path.replace("{network}", "bridge").replace("{endpoint}", &at_a.name);
        let (body, status) = get(&host, &path);
        assert_eq!(status, "200", "{path}: {body}");
        requested += 1;
    }
    assert!(requested >= 8, "{requested}");
    let (body, status) = get(&host, "/v1/nowhere");
    let error: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status.as_str(), error["error"]["code"].as_str()), ("404", Some("no_such_path")));
}
