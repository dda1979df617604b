//! Where tokens come from, what happens when they end, and what is told when there are none.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tracking::azure::{Management, Workspace};
use tracking::{Client, Connection, Environment, Error, Result};

use super::service::{
    ASSERTION, Answer, Azure, CLIENT, CLIENT_SECRET, IDENTITY_HEADER, REFRESH_TOKEN, SUBSCRIPTION,
    TENANT, TOKEN, cli_login,
};
use crate::proxy::{Proxy, Trouble};

fn workspace() -> Workspace {
    Workspace {
        subscription_id: SUBSCRIPTION.into(),
        resource_group: "g".into(),
        workspace_name: "w".into(),
    }
}

/// The service's environment, without a home, and more.
fn environment(azure: &Azure, more: &[(&str, &str)]) -> Environment {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    azure.environment().into_iter().chain(more).collect()
}

/// Asks the workspace for its tracking URI.
fn discover(environment: &Environment) -> Result<String> {
    Management::new(&workspace(), environment)?.tracking_uri()
}

const SECRET: [(&str, &str); 3] = [
    ("AZURE_TENANT_ID", TENANT),
    ("AZURE_CLIENT_ID", CLIENT),
    ("AZURE_CLIENT_SECRET", CLIENT_SECRET),
];

/// No secret is in a message.
#[track_caller]
fn assert_clean(text: &str) {
    for secret in [CLIENT_SECRET, ASSERTION, REFRESH_TOKEN, IDENTITY_HEADER, TOKEN] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn every_source_gives_a_token_that_the_workspace_takes() {
    let place = tempfile::tempdir().expect("folder");
    let at = |name: &str| place.path().join(name).display().to_string();
    let azure = Azure::start(None);
    let authority = azure.uri().replace("http://", "");
    durable::write(Path::new(&at("assertion")), format!("{ASSERTION}\n").as_bytes())
        .expect("write");
    cli_login(Path::new(&at("user")), &authority, "user");
    cli_login(Path::new(&at("principal")), &authority, "servicePrincipal");
    let identity = format!("{}/msi/token", azure.uri());
    for (what, more) in [
        ("client_secret=", SECRET.to_vec()),
        (
            "client_assertion=",
            vec![
                ("AZURE_TENANT_ID", TENANT),
                ("AZURE_CLIENT_ID", CLIENT),
                ("AZURE_FEDERATED_TOKEN_FILE", &at("assertion")),
            ],
        ),
        (
            "/msi/token",
            vec![("IDENTITY_ENDPOINT", &identity), ("IDENTITY_HEADER", IDENTITY_HEADER)],
        ),
        ("/metadata/identity", vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", &azure.uri())]),
        ("refresh_token=", vec![("AZURE_CONFIG_DIR", &at("user"))]),
        ("client_secret=", vec![("AZURE_CONFIG_DIR", &at("principal"))]),
    ] {
        azure.state().requests.clear();
        let environment = environment(&azure, &more);
        let uri = discover(&environment).expect(what);
        assert_eq!(uri, azure.tracking_uri(), "{what}");
        let seen = azure.state().requests.clone();
        let asked = seen.iter().any(|request| {
            request.target.contains(what) || String::from_utf8_lossy(&request.body).contains(what)
        });
        assert!(asked, "{what} in {seen:?}");
    }
}

#[test]
fn a_token_is_kept_until_shortly_before_its_end_and_replaced_when_refused() {
    let azure = Azure::start(None);
    let management =
        Management::new(&workspace(), &environment(&azure, &SECRET)).expect("settings");
    let sign_ins = || azure.requests("/oauth2/").len();
    for _ in 0..3 {
        management.tracking_uri().expect("taken");
    }
    assert_eq!(sign_ins(), 1, "one token serves all");
    azure.revoke();
    management.tracking_uri().expect("with another token");
    assert_eq!(sign_ins(), 2);
    // Refused for good: asked for once more, and no more.
    let refused = Answer::Json(401, json!({ "error": { "code": "No", "message": "no" } }));
    azure.answer("/workspaces/w", &[refused.clone(), refused]);
    let error = management.tracking_uri().expect_err("refused");
    assert!(matches!(error, Error::Refused { status: 401, .. }), "{error}");
    assert_eq!(sign_ins(), 3);

    // One that lasts two seconds is replaced after one.
    azure.state().life = Some(2);
    azure.revoke();
    management.tracking_uri().expect("taken");
    let before = sign_ins();
    std::thread::sleep(Duration::from_millis(2100));
    management.tracking_uri().expect("taken");
    assert_eq!(sign_ins(), before + 1);
    assert!(azure.requests("/workspaces/w").len() > 7);
}

#[test]
fn a_token_that_cannot_be_replaced_serves_until_its_end() {
    let azure = Azure::start(None);
    azure.state().life = Some(4);
    let management =
        Management::new(&workspace(), &environment(&azure, &SECRET)).expect("settings");
    management.tracking_uri().expect("taken");
    std::thread::sleep(Duration::from_millis(2100));
    let down = Answer::Raw(503, "", "down");
    azure.answer("/oauth2/", &vec![down; 9]);
    management.tracking_uri().expect("with the old token");
    assert_eq!(azure.requests("/oauth2/").len(), 2);
    std::thread::sleep(Duration::from_millis(2000));
    let error = management.tracking_uri().expect_err("no token");
    assert!(matches!(error, Error::Refused { status: 503, .. }), "{error}");
}

#[test]
fn trouble_at_the_sign_in_is_waited_out() {
    for trouble in [
        Answer::Raw(429, "retry-after: 0\r\n", ""),
        Answer::Raw(503, "", "<html>down"),
        Answer::Json(500, json!({ "error": "temporarily_unavailable" })),
        Answer::Nothing(Duration::from_millis(10)),
    ] {
        let azure = Azure::start(None);
        azure.answer("/oauth2/", &[trouble.clone(), trouble.clone()]);
        let environment = environment(&azure, &SECRET);
        let uri = discover(&environment);
        assert_eq!(uri.expect("the third time"), azure.tracking_uri(), "{trouble:?}");
        assert_eq!(azure.requests("/oauth2/").len(), 3);
        assert_eq!(azure.requests("/workspaces/w").len(), 1, "asked with a token only");
    }
}

/// A request waits for a second.
const PATIENCE: (&str, &str) = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "1");
/// What a connection can do but carry an answer.
const BROKEN: [Trouble; 6] =
    [Trouble::Reset, Trouble::Lost, Trouble::Half, Trouble::Cut, Trouble::Stall, Trouble::Hang];

/// For each trouble a service, and the proxy before it.
fn for_each_trouble(check: impl Fn(Trouble, &Azure, &Proxy) + Sync) {
    std::thread::scope(|threads| {
        for trouble in BROKEN {
            let check = &check;
            threads.spawn(move || {
                let mut proxy = None;
                let azure =
                    Azure::start(None).behind(|port| proxy.insert(Proxy::before(port)).port);
                check(trouble, &azure, &proxy.expect("started"));
            });
        }
    });
}

#[test]
fn a_job_is_submitted_through_trouble_with_every_call() {
    let place = tempfile::tempdir().expect("folder");
    let file = place.path().join("config.toml");
    durable::write(&file, b"name = \"j\"").expect("write");
    for_each_trouble(|trouble, azure, proxy| {
        let environment = environment(azure, &[&SECRET[..], &[PATIENCE]].concat());
        proxy.make(trouble);
        let management = Management::new(&workspace(), &environment).expect("settings");
        assert_eq!(management.tracking_uri().expect("found"), azure.tracking_uri());
        let files = [("config.toml".to_owned(), file.clone())];
        let code = management.upload_code("ferrotune", "j", &files).expect("uploaded");
        management.put("jobs/j", &json!({ "properties": { "codeId": code } })).expect("made");
        let state = azure.state();
        assert_eq!(state.blobs["code/ferrotune/config.toml"], b"name = \"j\"");
        assert_eq!(state.resources["jobs/j"]["properties"]["codeId"], json!(code));
        assert_eq!(state.resources.len(), 2, "each once");
        drop(state);
        let hit = proxy.calm();
        for call in [
            "GET /metadata",
            "POST v2.0/token",
            "GET workspaces/w",
            "POST j/startPendingUpload",
            "PUT blob",
            "PUT versions/j",
            "PUT jobs/j",
        ] {
            assert!(hit.contains(call), "{trouble:?}: {call} in {hit:?}");
        }
    });
}

#[test]
fn an_identity_that_was_there_is_waited_for() {
    for_each_trouble(|trouble, azure, proxy| {
        let (imds, app) = (azure.uri(), format!("{}/msi/token", azure.uri()));
        for (identity, call) in [
            (vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", imds.as_str())], "GET oauth2/token"),
            (
                vec![("IDENTITY_ENDPOINT", app.as_str()), ("IDENTITY_HEADER", IDENTITY_HEADER)],
                "GET /msi",
            ),
        ] {
            let environment = environment(azure, &[&identity[..], &[PATIENCE]].concat());
            let management = Management::new(&workspace(), &environment).expect("settings");
            management.tracking_uri().expect("found");
            azure.revoke();
            proxy.make(trouble);
            management.tracking_uri().expect("found again");
            let hit = proxy.calm();
            assert!(hit.contains(call), "{trouble:?}: {call} in {hit:?}");
        }
    });
}

#[test]
fn the_token_of_a_job_is_renewed_through_trouble() {
    for_each_trouble(|trouble, azure, proxy| {
        let ended = ended_token();
        azure.take(&ended);
        let job = [
            ("MLFLOW_TRACKING_TOKEN", ended.as_str()),
            ("MLFLOW_RUN_ID", "r"),
            ("MLFLOW_EXPERIMENT_ID", "1"),
        ];
        let environment = environment(azure, &[&job[..], &[PATIENCE]].concat());
        let connection = Connection::from_environment(&azure.tracking_uri(), &environment);
        let client = Client::new(&connection.expect("settings")).expect("client");
        proxy.make(trouble);
        let error = client.run("r").expect_err("no MLflow is behind this workspace");
        assert!(matches!(error, Error::Refused { status: 404, .. }), "{trouble:?}: {error}");
        let hit = proxy.calm();
        assert!(hit.contains("GET r/token"), "{trouble:?}: {hit:?}");
    });
}

/// As Azure ML gives its jobs.
fn ended_token() -> String {
    use base64::Engine as _;
    let claims = format!("{{\"exp\": {}}}", tracking::now_ms() / 1000 - 10);
    format!("x.{}.x", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
}

#[test]
fn a_page_at_the_sign_in_puts_no_other_identity_in_its_place() {
    let place = tempfile::tempdir().expect("folder");
    let azure = Azure::start(None);
    cli_login(place.path(), &azure.uri().replace("http://", ""), "user");
    let login = place.path().display().to_string();
    let more = [&SECRET[..], &[("AZURE_CONFIG_DIR", login.as_str())]].concat();
    let environment = environment(&azure, &more);
    for (page, later) in [
        (Answer::Raw(200, "", "<html>welcome"), true),
        (Answer::Raw(302, "location: https://elsewhere.example\r\n", ""), true),
        (Answer::Raw(403, "", "<html>not from here"), false),
        (Answer::Raw(404, "", ""), false),
    ] {
        azure.answer("/oauth2/", std::slice::from_ref(&page));
        let error = discover(&environment).expect_err("no token");
        match later {
            true => assert!(matches!(error, Error::BadAnswer { .. }), "{page:?}: {error}"),
            false => assert!(matches!(error, Error::TokenRefused { .. }), "{page:?}: {error}"),
        }
    }
    for sign_in in azure.requests("/oauth2/") {
        assert!(String::from_utf8_lossy(&sign_in.body).contains("client_secret="));
    }
}

#[test]
fn an_identity_that_is_refused_is_told_and_no_other_put_in_its_place() {
    let place = tempfile::tempdir().expect("folder");
    let azure = Azure::start(None);
    let authority = azure.uri().replace("http://", "");
    cli_login(place.path(), &authority, "user");
    let login = place.path().display().to_string();
    let wrong = "wr0ng~s3cret";
    for more in [
        vec![SECRET[0], SECRET[1], ("AZURE_CLIENT_SECRET", wrong), ("AZURE_CONFIG_DIR", &login)],
        vec![("AZURE_TENANT_ID", "0"), SECRET[1], SECRET[2], ("AZURE_CONFIG_DIR", &login)],
    ] {
        let error = discover(&environment(&azure, &more)).expect_err("refused");
        assert!(matches!(error, Error::TokenRefused { by: "client secret", .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("AADSTS") && !text.contains("Trace"), "{text}");
        assert!(!text.contains(wrong), "{text}");
        assert_clean(&text);
    }
    assert_eq!(azure.requests("/workspaces/w").len(), 0);

    // The login of the CLI can end as well, and says how to renew it.
    let cache = place.path().join("msal_token_cache.json");
    let text = std::fs::read_to_string(&cache).expect("there").replace(REFRESH_TOKEN, "revoked");
    durable::write(&cache, text.as_bytes()).expect("write");
    let error = discover(&environment(&azure, &[("AZURE_CONFIG_DIR", &login)]));
    let text = error.expect_err("revoked").to_string();
    assert!(text.contains("Azure CLI") && text.contains("invalid_grant"), "{text}");
    assert!(text.contains(&format!("az login --tenant {TENANT}")), "{text}");
}

#[test]
fn without_an_identity_every_place_is_named_that_it_was_looked_for() {
    let place = tempfile::tempdir().expect("folder");
    let at = place.path().display().to_string();
    let azure = Azure::start(None);
    let none = environment(&azure, &[("HOME", &at)]);
    let start = Instant::now();
    let error = discover(&none).expect_err("nobody");
    assert!(start.elapsed() < Duration::from_secs(5), "it is told soon");
    assert!(matches!(error, Error::NoToken { .. }), "{error}");
    let text = error.to_string();
    for part in [
        "client secret: AZURE_CLIENT_SECRET is not set",
        "workload identity: AZURE_FEDERATED_TOKEN_FILE is not set",
        "managed identity: this is no machine of Azure",
        "Azure CLI: there is no",
        ".azure/azureProfile.json",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }

    // A login elsewhere, an encrypted one, a damaged one: no secret of theirs is sent or shown.
    let folder = place.path().join(".azure");
    cli_login(&folder, "login.microsoftonline.com", "user");
    let text = discover(&none).expect_err("elsewhere").to_string();
    assert!(text.contains("is not logged in at 127.0.0.1"), "{text}");
    let cache = folder.join("msal_token_cache.json");
    durable::write(&cache, format!("{{\"{REFRESH_TOKEN}").as_bytes()).expect("write");
    let text = discover(&none).expect_err("damaged").to_string();
    assert!(text.contains("msal_token_cache.json cannot be read"), "{text}");
    assert_clean(&text);
    std::fs::rename(&cache, folder.join("msal_token_cache.bin")).expect("renamed");
    let text = discover(&none).expect_err("encrypted").to_string();
    assert!(text.contains("msal_token_cache.bin is encrypted"), "{text}");
    assert_eq!(azure.requests("/oauth2/").len(), 0);

    let certificate = environment(&azure, &[("AZURE_CLIENT_CERTIFICATE_PATH", "/x.pem")]);
    let text = discover(&certificate).expect_err("certificates").to_string();
    assert!(text.contains("AZURE_CLIENT_CERTIFICATE_PATH"), "{text}");
}

#[test]
fn a_cached_token_of_the_cli_is_used_while_it_lasts() {
    let place = tempfile::tempdir().expect("folder");
    let azure = Azure::start(None);
    let authority = azure.uri().replace("http://", "");
    cli_login(place.path(), &authority, "user");
    let cache = place.path().join("msal_token_cache.json");
    let mut content: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&cache).expect("there")).expect("JSON");
    let now = tracking::now_ms() / 1000;
    let token = azure.token();
    content["AccessToken"]["t"] = json!({
        "home_account_id": "oid.home", "environment": authority, "client_id": "x", "realm": TENANT,
        "target": format!("{}//.default", azure.uri()), "expires_on": (now + 3600).to_string(),
        "secret": token,
    });
    durable::write(&cache, content.to_string().as_bytes()).expect("write");
    let at = place.path().display().to_string();
    let environment = environment(&azure, &[("AZURE_CONFIG_DIR", &at)]);
    discover(&environment).expect("with the cached token");
    assert_eq!(azure.requests("/oauth2/").len(), 0);
    content["AccessToken"]["t"]["expires_on"] = (now + 60).to_string().into();
    durable::write(&cache, content.to_string().as_bytes()).expect("write");
    discover(&environment).expect("with another");
    assert_eq!(azure.requests("/oauth2/").len(), 1);
}

#[test]
fn a_workspace_that_is_not_there_or_not_ours_is_told() {
    let azure = Azure::start(None);
    let environment = environment(&azure, &SECRET);
    let elsewhere = Workspace { workspace_name: "other".into(), ..workspace() };
    let error = Management::new(&elsewhere, &environment).expect("settings").tracking_uri();
    assert!(matches!(error, Err(Error::Refused { status: 404, code, .. }) if code == "NotFound"));
    let forbidden =
        json!({ "error": { "code": "AuthorizationFailed", "message": "may not read" } });
    azure.answer("/workspaces/w", &[Answer::Json(403, forbidden)]);
    let error = discover(&environment).expect_err("not ours").to_string();
    assert!(error.contains("403 AuthorizationFailed: may not read"), "{error}");
    assert_clean(&error);
}
