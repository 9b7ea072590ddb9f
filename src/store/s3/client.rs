//! The client: credentials, region, certificates, proxy.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Builder, Connector, tls};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::attempt::silence_of_credentials;
use super::runtime::Runtime;
use super::settings::S3Settings;
use crate::store::StoreError;

/// For how long a connection may take to be made, its TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// After so long without a byte a transfer has stalled.
const STALLED: Duration = Duration::from_secs(30);

/// An idle connection isn't used again after this: what lies between may have forgotten it.
const IDLE: Duration = Duration::from_secs(20);

/// The longest file of certificates, in bytes.
const LONGEST_CA_FILE: u64 = 4 << 20;

/// Makes the client of a store.
pub(super) fn build(runtime: &Runtime, settings: &S3Settings) -> Result<Client, StoreError> {
    let http = http_client(settings.ca_file.as_deref())?;
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .identity_cache(IdentityCache::lazy().load_timeout(silence_of_credentials(settings)).build())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build());
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint.clone());
    }
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(files) = settings.home.as_deref().and_then(|home| profile_files(home, |name| std::env::var_os(name).is_some())) {
        loader = loader.profile_files(files);
    }
    let config = runtime.run(async move { loader.load().await }).map_err(|source| setting("reading AWS settings", source))?;
    let endpoint = config.endpoint_url().is_some();
    let mut builder = aws_sdk_s3::config::Builder::from(&config)
        .force_path_style(settings.path_style.unwrap_or(endpoint))
        // Of what is sent it sees nothing but that it was begun: we watch that (`sending.rs`).
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().upload_enabled(false).grace_period(STALLED).build())
        // A checksum goes with what is stored, computed by us; one that comes with what is read is verified.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenSupported);
    if config.region().is_none() {
        if !endpoint {
            let missing = io::Error::new(io::ErrorKind::NotFound, "no region is set");
            return Err(setting("reading AWS settings", missing));
        }
        // The services of others want a name to sign with, and most take any.
        builder = builder.region(Region::new("us-east-1"));
    }
    Ok(Client::from_conf(builder.build()))
}

fn setting(what: &str, source: io::Error) -> StoreError {
    StoreError::S3Setting { what: what.to_owned(), source }
}

/// What there is of `.aws` in a home that isn't the environment's. A file that the environment names is that file.
fn profile_files(home: &Path, is_named: impl Fn(&str) -> bool) -> Option<EnvConfigFiles> {
    use EnvConfigFileKind::{Config, Credentials};
    // Of none a set can't be made, and one that isn't there would be an error.
    let mut files = None;
    for (kind, name, variable) in
        [(Config, ".aws/config", "AWS_CONFIG_FILE"), (Credentials, ".aws/credentials", "AWS_SHARED_CREDENTIALS_FILE")]
    {
        let (path, named) = (home.join(name), is_named(variable));
        if !named && !path.is_file() {
            continue;
        }
        let files_so_far = files.unwrap_or_else(EnvConfigFiles::builder);
        files = Some(match (named, kind) {
            (false, _) => files_so_far.with_file(kind, path),
            (true, Config) => files_so_far.include_default_config_file(true),
            (true, _) => files_so_far.include_default_credentials_file(true),
        });
    }
    files.map(|files| files.build())
}

/// Connections by rustls with ring, by a proxy where `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say so.
fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient, StoreError> {
    let trusted = match ca_file {
        None => tls::TrustStore::default(),
        Some(file) => tls::TrustStore::empty().with_pem_certificate(certificates(file)?),
    };
    let context =
        tls::TlsContext::builder().with_trust_store(trusted).build().map_err(|e| setting("setting up TLS", io::Error::other(e)))?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .tls_context(context.clone())
            .proxy_config(proxy(|name| std::env::var(name).ok()))
            .pool_idle_timeout(IDLE);
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.build()
    }))
}

/// What the environment says of proxies. That nothing goes by one is understood here: the client excepts no addresses by `*`.
fn proxy(variable: impl Fn(&str) -> Option<String>) -> ProxyConfig {
    let none = variable("NO_PROXY").or_else(|| variable("no_proxy"));
    if none.is_some_and(|none| none.split(',').any(|part| part.trim() == "*")) { ProxyConfig::disabled() } else { ProxyConfig::from_env() }
}

/// The text of a file of certificates; each can be read, and there is one.
fn certificates(file: &Path) -> Result<Vec<u8>, StoreError> {
    let unreadable = |source| setting(&format!("reading the certificates in {}", file.display()), source);
    let bad = |problem: String| unreadable(io::Error::new(io::ErrorKind::InvalidData, problem));
    let mut pem = Vec::new();
    let mut opened = std::fs::File::open(file).map_err(unreadable)?.take(LONGEST_CA_FILE + 1);
    opened.read_to_end(&mut pem).map_err(unreadable)?;
    if pem.len() as u64 > LONGEST_CA_FILE {
        return Err(bad("it is longer than any such file".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| bad(format!("not PEM: {e}")))?;
        roots.add(certificate).map_err(|e| bad(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("there is none in it: PEM is expected, beginning with -----BEGIN CERTIFICATE-----".to_owned()));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_excepts_everything_from_proxies() {
        for (name, value, goes_by_one) in
            [("NO_PROXY", "*", false), ("no_proxy", "a, *", false), ("NO_PROXY", "*.example.org", true), ("OTHER", "*", true)]
        {
            let config = proxy(|asked| (asked == name).then(|| value.to_owned()));
            assert_eq!(config.is_from_env(), goes_by_one, "{name}={value}");
            assert_eq!(config.is_disabled(), !goes_by_one);
        }
    }

    #[test]
    fn files_that_the_environment_names_go_before_those_of_a_home() {
        let home = tempfile::tempdir().unwrap();
        let found = |named: &[&str]| profile_files(home.path(), |name| named.contains(&name)).map(|files| format!("{files:?}"));
        assert_eq!(found(&[]), None);
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/credentials"), "").unwrap();
        let path = format!("FilePath {{ kind: Credentials, path: {:?} }}", home.path().join(".aws/credentials"));
        assert!(found(&[]).is_some_and(|files| files.contains(&path) && !files.contains("Config,")));
        let both = found(&["AWS_CONFIG_FILE"]).unwrap();
        assert!(both.contains(&path) && both.contains("Default(Config)"), "{both}");
        let named = found(&["AWS_SHARED_CREDENTIALS_FILE"]).unwrap();
        assert!(!named.contains(&path) && named.contains("Default(Credentials)"), "{named}");
    }
}
