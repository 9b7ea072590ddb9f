//! Ways to a service: by a proxy that the environment names, and by one on which nobody ever answers.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use crate::at;
use crate::loopback::Small;
use crate::support::s3::{Role, S3, ordinary};
use crate::support::{Host, Outcome, Repository};

fn variables(all: &[(&'static str, &str)]) -> Vec<(&'static str, OsString)> {
    let own = [("AWS_ACCESS_KEY_ID", "ID"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "eu-1")];
    own.iter().chain(all).map(|(name, value)| (*name, (*value).into())).collect()
}

fn run(all: &[(&'static str, &str)], arguments: &[&str]) -> Outcome {
    let own = ["--repo", "s3://bucket/pg", "--retry-time", "1s"];
    Host::with(variables(all)).pgcairn(own.iter().chain(arguments))
}

#[test]
fn plain_requests_go_by_the_proxy_of_the_environment() {
    let (s3, proxy) = (Small::denying(), Small::denying());
    // No such host: nobody but the proxy could find it.
    let (url, far) = (proxy.url(), "http://s3.invalid");
    run(&[("AWS_ENDPOINT_URL", far), ("HTTP_PROXY", &url)], &["list"]).code(1).says("403 AccessDenied");
    let asked = proxy.take();
    assert!(!asked.is_empty() && asked.iter().all(|a| a.line().starts_with("GET http://s3.invalid/bucket")), "{asked:?}");
    assert!(asked.iter().all(|a| a.who() == "ID"));

    // Near ones aren't asked by it: by address, and by name.
    for none in ["127.0.0.1", "127.0.0.0/8", "*", "example.org, 127.0.0.1"] {
        run(&[("AWS_ENDPOINT_URL", &s3.url()), ("HTTP_PROXY", &url), ("NO_PROXY", none)], &["list"]).code(1).says("403 AccessDenied");
        assert!(!s3.take().is_empty() && proxy.take().is_empty(), "{none}");
    }
    let near = s3.url().replace("127.0.0.1", "localhost");
    run(&[("AWS_ENDPOINT_URL", &near), ("http_proxy", &url), ("no_proxy", ".invalid,localhost")], &["list"]).code(1);
    assert!(!s3.take().is_empty() && proxy.take().is_empty());
    // The proxy of the other scheme isn't asked.
    run(&[("AWS_ENDPOINT_URL", &s3.url()), ("HTTPS_PROXY", &url)], &["list"]).code(1);
    assert!(!s3.take().is_empty() && proxy.take().is_empty());

    // With a name and a password, which stay between the two.
    let with = url.replace("http://", "http://user:hidden@");
    let outcome = run(&[("AWS_ENDPOINT_URL", far), ("HTTP_PROXY", &with)], &["-v", "list"]).code(1);
    assert!(!format!("{}{}", outcome.stdout, outcome.stderr).contains("hidden"), "{}", outcome.report());
    assert!(proxy.take().iter().all(|a| a.head.get("proxy-authorization") == Some("Basic dXNlcjpoaWRkZW4=")));
}

#[test]
fn tunnels_are_made_by_the_proxy_of_the_environment() {
    ordinary(|s3: &S3| {
        let service = s3.seaweed();
        let bucket = service.bucket();
        let https = service.https().strip_prefix("https://").unwrap();
        let proxy = Small::tunnels_to(https);
        let place = |more: &[(&'static str, &str)]| {
            let mut all = at(service.https(), &service, Role::Admin);
            all.push(("AWS_CA_BUNDLE", service.ca_file().into()));
            all.extend(more.iter().map(|(name, value)| (*name, OsString::from(value))));
            Repository::not_yet_in_bucket(&format!("s3://{}/pg", bucket.name()), all)
        };
        let by = place(&[("HTTPS_PROXY", &proxy.url())]);
        let key = by.key_file();
        by.run(["init", "--key-file", key.to_str().unwrap()]).ok();
        let asked = proxy.take();
        let tunnel = format!("CONNECT {https}");
        assert!(!asked.is_empty() && asked.iter().all(|a| a.line() == tunnel), "{asked:?}");
        let near = place(&[("HTTPS_PROXY", &proxy.url()), ("NO_PROXY", "localhost,127.0.0.1")]);
        near.run(["--key-file", key.to_str().unwrap(), "list"]).ok();
        assert!(proxy.take().is_empty());
    });
}

#[test]
fn a_proxy_that_refuses_is_said() {
    let unreachable = |scheme: &str, proxy: &str, said: &str| {
        let (endpoint, variable) = (format!("{scheme}://s3.invalid"), if scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" });
        let outcome = run(&[("AWS_ENDPOINT_URL", &endpoint), (variable, proxy)], &["list", "--json"]).code(1);
        assert_eq!(outcome.json()["error"]["class"], "unreachable", "{}", outcome.report());
        outcome.says(said)
    };
    for status in [403, 502] {
        let proxy = Small::start(move |_| (status, "", "<html>no</html>".to_owned()));
        unreachable("https", &proxy.url(), "unsuccessful").says("by the proxy of HTTPS_PROXY");
    }
    let proxy = Small::start(|_| (407, "proxy-authenticate: Basic\r\n", String::new()));
    for scheme in ["https", "http"] {
        unreachable(scheme, &proxy.url(), "the proxy demands a login (407)");
        assert_eq!(proxy.take().len(), 1, "it is not asked again");
    }
    for scheme in ["https", "http"] {
        unreachable(scheme, "http://127.0.0.1:9", "Connection refused").says("by the proxy of HTTP");
    }
}

/// Each is ended by the time that was given for it, and five seconds for an answer. The rest is for a slow machine.
#[test]
fn nobody_waits_for_a_service_that_never_answers() {
    let silent = Small::silent();
    let (http, https) = (silent.url(), silent.url().replace("http:", "https:"));
    let ways: [&[(&'static str, &str)]; 4] = [
        &[("AWS_ENDPOINT_URL", &http)],
        &[("AWS_ENDPOINT_URL", &https)],
        &[("AWS_ENDPOINT_URL", "https://s3.invalid"), ("HTTPS_PROXY", &http)],
        &[("AWS_ENDPOINT_URL", "http://s3.invalid"), ("HTTP_PROXY", &http)],
    ];
    let began = Instant::now();
    std::thread::scope(|scope| {
        for way in ways {
            scope.spawn(move || {
                let outcome = run(way, &["list", "--json"]).code(1);
                assert_eq!(outcome.json()["error"]["class"], "unreachable", "{way:?}\n{}", outcome.report());
            });
        }
        // Those that are asked before it: for a region, and for credentials.
        let (imds, sts) = (Small::silent(), Small::silent());
        scope.spawn(move || {
            let own =
                variables(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.url())]).into_iter().filter(|(name, _)| *name != "AWS_REGION");
            Host::with(own.collect()).pgcairn(["--repo", "s3://bucket/pg", "list"]).code(2).says("no region is set");
        });
        let endpoint = &http;
        scope.spawn(move || {
            let host = Host::new();
            let token = host.home().join("token");
            std::fs::write(&token, "t").unwrap();
            let mut command = host.command(["--repo", "s3://bucket/pg", "--retry-time", "1s", "list", "--json"]);
            command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_ENDPOINT_URL_STS", sts.url()).env("AWS_REGION", "eu-1");
            command.env("AWS_WEB_IDENTITY_TOKEN_FILE", token).env("AWS_ROLE_ARN", "arn:aws:iam::1:role/r");
            let outcome = Outcome::of(command).code(1);
            assert_eq!(outcome.json()["error"]["class"], "denied", "{}", outcome.report());
            outcome.says("who hands out credentials (STS").says("AWS_ACCESS_KEY_ID");
        });
        scope.spawn(|| {
            let folder = crate::support::TestDir::new();
            let to = folder.join("got");
            let segment = "000000010000000000000001";
            let got = run(ways[0], &["archive-get", segment, to.to_str().unwrap()]);
            assert!(got.status.code() > Some(125) && !to.exists(), "{}", got.report());
        });
    });
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
