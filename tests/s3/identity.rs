//! Credentials and region, from where users of AWS keep them: which of several sources counts, and what is said when there are
//! none. By small services on loopback; what counts is with what a request comes to S3.

use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::loopback::{Answered, Asked, Small, error};
use crate::support::{Host, Outcome, TestDir};

type Variables = Vec<(&'static str, OsString)>;

fn variables(all: &[(&'static str, &str)]) -> Variables {
    all.iter().map(|(name, value)| (*name, (*value).into())).collect()
}

/// `list` by a host with these variables, and files in its home.
fn list(s3: &Small, variables: Variables, files: &[(&str, &str)]) -> Outcome {
    let mut all = variables;
    all.push(("AWS_ENDPOINT_URL", s3.url().into()));
    let host = Host::with(all);
    write(host.home(), files);
    host.pgcairn(["--repo", "s3://bucket/pg", "--retry-time", "1s", "list"])
}

fn write(home: &Path, files: &[(&str, &str)]) {
    std::fs::create_dir_all(home.join(".aws")).unwrap();
    for (name, text) in files {
        std::fs::write(home.join(".aws").join(name), text).unwrap();
    }
}

/// With what the first request came.
#[track_caller]
fn first(s3: &Small, outcome: Outcome) -> Asked {
    let outcome = outcome.code(1).says("403 AccessDenied");
    s3.take().into_iter().next().unwrap_or_else(|| panic!("{}", outcome.report()))
}

const CREDENTIALS: &str = "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = s\n\
    [other]\naws_access_key_id = OTHER\naws_secret_access_key = s\naws_session_token = of-a-file\n";
const CONFIG: &str = "[default]\nregion = eu-default-1\n[profile other]\nregion = eu-other-1\n\
    [profile role]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = other\nregion = eu-role-1\n\
    [profile by-instance]\nrole_arn = arn:aws:iam::1:role/r\ncredential_source = Ec2InstanceMetadata\nregion = eu-role-2\n";
const FILES: [(&str, &str); 2] = [("credentials", CREDENTIALS), ("config", CONFIG)];

fn json(access: &str) -> String {
    json_until(access, "2099-01-01T00:00:00Z")
}

fn json_until(access: &str, expiration: &str) -> String {
    format!(
        "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"{access}\",\"SecretAccessKey\":\"s\",\"Token\":\"handed-out\",\
         \"Expiration\":\"{expiration}\"}}"
    )
}

/// As IMDSv2: a token first, the role's name, its credentials.
fn instance(asked: &Asked) -> Answered {
    let has_token = asked.head.get("x-aws-ec2-metadata-token") == Some("of-imds");
    let answer = match asked.line() {
        "PUT /latest/api/token" if asked.head.get("x-aws-ec2-metadata-token-ttl-seconds").is_some() => {
            return (200, "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n", "of-imds".to_owned());
        }
        _ if !has_token => return (401, "", String::new()),
        "GET /latest/meta-data/iam/security-credentials/" => "writer".to_owned(),
        "GET /latest/meta-data/iam/security-credentials/writer" => json("INSTANCE"),
        "GET /latest/meta-data/placement/region" => "eu-instance-1".to_owned(),
        _ => return (404, "", String::new()),
    };
    (200, "", answer)
}

/// As STS: by a token, or signed.
fn sts(asked: &Asked) -> Answered {
    let (action, access) =
        if asked.body.contains("Action=AssumeRoleWithWebIdentity") && asked.body.contains("WebIdentityToken=token-of-a-pod") {
            ("AssumeRoleWithWebIdentity", "WEB")
        } else if asked.body.contains("Action=AssumeRole&") && matches!(asked.who(), "OTHER" | "INSTANCE") {
            ("AssumeRole", "ROLE")
        } else {
            return (403, "", format!("<ErrorResponse>{}</ErrorResponse>", error("AccessDenied")));
        };
    let credentials = format!(
        "<AccessKeyId>{access}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>handed-out</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration>"
    );
    let xml = format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>{credentials}</Credentials>\
         <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser></{action}Result>\
         </{action}Response>"
    );
    (200, "content-type: text/xml\r\n", xml)
}

/// Each source that is taken away makes room for the next.
#[test]
fn credentials_are_looked_for_where_users_of_aws_keep_them() {
    let (s3, imds, roles) = (Small::denying(), Small::start(instance), Small::start(sts));
    let container = Small::start(|asked| match asked.head.get("authorization") {
        Some("Bearer of-a-task") => (200, "", json("CONTAINER")),
        _ => (401, "", String::new()),
    });
    let folder = TestDir::new();
    std::fs::write(folder.join("token"), "token-of-a-pod").unwrap();

    let of_instance = variables(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.url())]);
    let of_container = variables(&[
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/task", container.url())),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer of-a-task"),
    ]);
    let of_web = vec![
        ("AWS_WEB_IDENTITY_TOKEN_FILE", folder.join("token").into()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r".into()),
        ("AWS_ENDPOINT_URL_STS", roles.url().into()),
        ("AWS_REGION", "eu-web-1".into()),
    ];
    let of_environment =
        variables(&[("AWS_ACCESS_KEY_ID", "ENVIRONMENT"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "of-a-variable")]);
    let with = |variables: &[&Variables], files: &[(&str, &str)]| {
        let asked = first(&s3, list(&s3, variables.iter().flat_map(|all| all.iter().cloned()).collect(), files));
        let token = asked.head.get("x-amz-security-token").unwrap_or_default().to_owned();
        (asked.who().to_owned(), token, asked.region().to_owned())
    };
    let found = |who: &str, token: &str, region: &str| (who.to_owned(), token.to_owned(), region.to_owned());

    let lower = [&of_instance, &of_container, &of_web];
    let all = [&of_instance, &of_container, &of_web, &of_environment];
    assert_eq!(with(&all, &FILES), found("ENVIRONMENT", "of-a-variable", "eu-web-1"));
    assert_eq!(with(&lower, &FILES), found("DEFAULT", "", "eu-web-1"));
    assert_eq!(with(&lower, &[]), found("WEB", "handed-out", "eu-web-1"));
    assert_eq!(with(&[&of_instance, &of_container], &[]), found("CONTAINER", "handed-out", "eu-instance-1"));
    assert!(container.take().iter().any(|asked| asked.line() == "GET /task"));
    assert_eq!(with(&[&of_instance], &[]), found("INSTANCE", "handed-out", "eu-instance-1"));
    // Kubernetes puts the container's token into a file.
    std::fs::write(folder.join("task"), "Bearer of-a-task").unwrap();
    let mut by_file = of_container.clone();
    by_file[1] = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", folder.join("task").into());
    assert_eq!(with(&[&of_instance, &by_file], &[]).0, "CONTAINER");

    // Profiles, and a role that is assumed by one.
    let none = variables(&[("AWS_EC2_METADATA_DISABLED", "true")]);
    assert_eq!(with(&[&none], &FILES), found("DEFAULT", "", "eu-default-1"));
    let other = variables(&[("AWS_PROFILE", "other")]);
    assert_eq!(with(&[&none, &other], &FILES), found("OTHER", "of-a-file", "eu-other-1"));
    let role = vec![("AWS_PROFILE", "role".into()), ("AWS_ENDPOINT_URL_STS", roles.url().into())];
    assert_eq!(with(&[&none, &role], &FILES), found("ROLE", "handed-out", "eu-role-1"));
    let role = vec![("AWS_PROFILE", "by-instance".into()), ("AWS_ENDPOINT_URL_STS", roles.url().into())];
    assert_eq!(with(&[&of_instance, &role], &FILES), found("ROLE", "handed-out", "eu-role-2"));
    // Files elsewhere.
    std::fs::write(folder.join("credentials"), CREDENTIALS.replace("OTHER", "ELSEWHERE")).unwrap();
    let elsewhere = vec![("AWS_SHARED_CREDENTIALS_FILE", folder.join("credentials").into())];
    assert_eq!(with(&[&none, &other, &elsewhere], &FILES), found("ELSEWHERE", "of-a-file", "eu-other-1"));
    // No region at all: the services of others take any.
    assert_eq!(with(&[&none, &of_environment], &[]), found("ENVIRONMENT", "of-a-variable", "us-east-1"));
}

#[test]
fn who_has_none_is_told_where_they_are_looked_for() {
    let (s3, silent) = (Small::denying(), Small::silent());
    let disabled = ("AWS_EC2_METADATA_DISABLED", "true");
    let none = |more: &[(&'static str, &str)], files: &[(&str, &str)]| {
        let outcome = list(&s3, variables(&[&[disabled], more].concat()), files);
        outcome.code(1)
    };
    none(&[], &[]).says("no credentials were found").says("AWS_ACCESS_KEY_ID");
    none(&[("AWS_PROFILE", "typo")], &FILES).says("there is no profile \"typo\"");
    let sso = "[default]\nsso_start_url = https://x\nsso_region = eu-1\nsso_account_id = 1\nsso_role_name = r\n";
    none(&[], &[("config", sso)]).says("source of credentials that this program doesn't have (sso)");
    none(&[], &[("config", "[default]\ncredential_process = /bin/true\n")]).says("doesn't have (credentials-process)");
    // A file that can't be: named, and no secret of it.
    let broken = none(&[], &[("credentials", "[default\naws_secret_access_key = hidden\n")]).says("could not parse profile file");
    assert!(!format!("{}{}", broken.stdout, broken.stderr).contains("hidden"), "{}", broken.report());
    // PostgreSQL must not take it for the end of WAL.
    let host = Host::with(variables(&[disabled, ("AWS_ENDPOINT_URL", &s3.url())]));
    let got = host.pgcairn(["--repo", "s3://bucket/pg", "archive-get", "000000010000000000000001", "got"]);
    assert!(got.status.code() > Some(125), "{}", got.report());

    // Those that hand them out: nobody there, a refusal, no answer.
    let container = |url: String| none(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url)], &[]);
    container("http://127.0.0.1:9/".to_owned()).says("credentials").says("Connection refused").says("AWS_ACCESS_KEY_ID");
    container(Small::start(|_| (403, "", String::new())).url()).says("403").says("AWS_ACCESS_KEY_ID");
    let slow = list(&s3, variables(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &silent.url())]), &[]).code(1);
    slow.says("credentials").says("AWS_ACCESS_KEY_ID");
    assert!(s3.asked().is_empty(), "nothing is sent without credentials");

    // Amazon's own is not found without a region.
    let amazon = variables(&[disabled, ("AWS_ACCESS_KEY_ID", "ID"), ("AWS_SECRET_ACCESS_KEY", "s")]);
    Host::with(amazon).pgcairn(["--repo", "s3://bucket/pg", "list"]).code(2).says("no region is set");
}

#[test]
fn credentials_whose_time_is_over_are_said_to_be() {
    let s3 = Small::start(|_| (400, "", error("ExpiredToken")));
    let variables = variables(&[("AWS_ACCESS_KEY_ID", "ID"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "old")]);
    list(&s3, variables, &[]).code(1).says("400 ExpiredToken").says("fetch new credentials");
}

/// An endpoint of the profile, in either way of writing it.
#[test]
fn an_endpoint_of_the_profile_counts() {
    let s3 = Small::denying();
    let url = s3.url();
    let list = |config: &str, arguments: &[&str]| {
        let host =
            Host::with(variables(&[("AWS_ACCESS_KEY_ID", "ID"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_EC2_METADATA_DISABLED", "true")]));
        write(host.home(), &[("config", config)]);
        host.pgcairn(["--repo", "s3://bucket/pg", "list"].iter().chain(arguments)).code(1).says("403 AccessDenied");
        let asked = s3.take();
        assert!(!asked.is_empty() && asked.iter().all(|a| a.line().starts_with("GET /bucket")), "{asked:?}");
    };
    list(&format!("[default]\nendpoint_url = {url}\n"), &[]);
    let of_s3_alone = format!("[default]\nservices = own\nregion = eu-1\n[services own]\ns3 =\n  endpoint_url = {url}\n");
    list(&of_s3_alone, &["--path-style", "true"]);
}

/// Their end is near, or has come by the service's clock: the next request comes with others.
#[test]
fn credentials_that_are_handed_out_are_fetched_anew() {
    let fetched = AtomicUsize::new(0);
    let container = Small::start(move |_| {
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
        let number = fetched.fetch_add(1, Ordering::SeqCst);
        (200, "", json_until(&format!("FETCHED{number}"), &soon.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
    });
    let s3 = Small::start(|asked| match asked.who() {
        "FETCHED0" => (503, "", error("SlowDown")),
        "FETCHED1" => (400, "", error("ExpiredToken")),
        _ => (403, "", error("AccessDenied")),
    });
    let of_container = variables(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url()), ("AWS_EC2_METADATA_DISABLED", "true")]);
    list(&s3, of_container, &[]).code(1).says("403 AccessDenied");
    let whose: Vec<String> = s3.take().iter().map(|asked| asked.who().to_owned()).collect();
    assert_eq!(whose, ["FETCHED0", "FETCHED1", "FETCHED2"]);
}
