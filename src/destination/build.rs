//! **W** Address, options and credentials to a destination.
//!
//! The credentials are those of the BackupJob's Secret (or, on the command line, of the user's environment) and nothing
//! else: the chain that signs has one link. Without it a Secret that lacks a key would fall through to the operator's own
//! cloud identity.

use super::Destination;
use super::address::Address;
use super::egress::Egress;
use super::object_store::ObjectStore;
use super::resolver::{Guarded, check_url};
use super::throttle::{Bandwidth, Throttled};
use super::uploads::Uploads;
use super::volume::Volume;
use crate::clock::Clock;
use crate::error::{Failure, Reason};
use crate::validate::word;
use opendal::Operator;
use opendal::services::S3;
use reqsign_aws_v4::Credential;
use reqsign_core::{Context, ProvideCredential, ProvideCredentialChain};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// `destination.options` of an S3 destination.
pub const S3_OPTIONS: &[&str] = &["caBundle", "endpoint", "region", "storageClass"];

/// The region where none is said; what S3 servers other than AWS expect too.
const DEFAULT_REGION: &str = "us-east-1";
/// To reach the server.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// A peer that no longer acknowledges what was sent to it has gone.
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_mins(1);
/// Between two bytes of an answer, the time in which our own body is sent included.
const SILENCE_LIMIT: Duration = Duration::from_mins(5);

/// The same destination, with at most so many bytes per second for all uploads together, where a limit was said.
pub fn limited(
    destination: Arc<dyn Destination>,
    bytes_per_second: Option<u64>,
    clock: &Arc<dyn Clock>,
) -> Arc<dyn Destination> {
    match bytes_per_second {
        None => destination,
        Some(rate) => Arc::new(Throttled::new(destination, Arc::new(Bandwidth::new(rate)), Arc::clone(clock))),
    }
}

/// Builds a destination for the command line, which connects wherever its user's network does. `credentials` has the keys
/// of the environment.
pub fn build(
    address: &Address,
    options: &BTreeMap<String, String>,
    credentials: &BTreeMap<String, String>,
) -> Result<Arc<dyn Destination>, Failure> {
    build_within(&Arc::new(Egress::unrestricted()), address, options, credentials)
}

/// Builds a destination that connects to nothing that `egress` refuses: what the operator uses. `credentials` has the keys
/// of the Secret. Nothing is contacted.
///
/// # Errors
/// [`Reason::SecretKeyMissing`]; [`Reason::InvalidSpec`]; [`Reason::DestinationForbidden`], where the address stands in the
/// endpoint itself (a name is looked at whenever a connection is made).
pub fn build_within(
    egress: &Arc<Egress>,
    address: &Address,
    options: &BTreeMap<String, String>,
    credentials: &BTreeMap<String, String>,
) -> Result<Arc<dyn Destination>, Failure> {
    match address {
        Address::File { path } => {
            if let Some(option) = options.keys().next() {
                return Err(misconfigured(format!("a folder has no options; {option:?} was given")));
            }
            Ok(Arc::new(Volume::new(path)))
        }
        Address::S3 { bucket, prefix } => {
            if let Some(option) = options.keys().find(|option| !S3_OPTIONS.contains(&option.as_str())) {
                let known = S3_OPTIONS.join(", ");
                return Err(misconfigured(format!(
                    "{option:?} is not an option of an s3 destination; those are {known}"
                )));
            }
            let settings = Settings { options, credentials };
            Ok(Arc::new(s3(egress, bucket, prefix, &settings, &address.to_string())?))
        }
    }
}

fn misconfigured(message: impl Into<String>) -> Failure {
    Failure::new(Reason::InvalidSpec, message)
}

/// Where a setting may stand.
struct Settings<'a> {
    options: &'a BTreeMap<String, String>,
    credentials: &'a BTreeMap<String, String>,
}

impl<'a> Settings<'a> {
    /// A value of the Secret; white space around it (a newline that `echo` left) is never part of a key.
    fn secret(&self, key: &str) -> Option<&'a str> {
        self.credentials.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn needed(&self, key: &str) -> Result<&'a str, Failure> {
        self.secret(key).ok_or_else(|| {
            let message = format!(
                "{key} is missing. Put it into the Secret that `secretRef` names (on the command line: into the environment)"
            );
            Failure::new(Reason::SecretKeyMissing, message)
        })
    }

    /// The option goes first.
    fn setting(&self, option: &str, key: &str) -> Option<&'a str> {
        self.options
            .get(option)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
            .or_else(|| self.secret(key))
    }

    /// It becomes a part of the server's name, which must not be another one for what stands in a Secret.
    fn region(&self) -> Result<&'a str, Failure> {
        let region = self.setting("region", "AWS_REGION").unwrap_or(DEFAULT_REGION);
        match word(region) {
            None => Ok(region),
            // Never the value: whoever mixes up the keys of a Secret has put another one's here.
            Some(wrong) => Err(misconfigured(format!("the region (AWS_REGION, or the option `region`) {wrong}"))),
        }
    }
}

fn s3(
    egress: &Arc<Egress>,
    bucket: &str,
    prefix: &str,
    settings: &Settings<'_>,
    name: &str,
) -> Result<ObjectStore, Failure> {
    let keys = Keys(Credential {
        access_key_id: settings.needed("AWS_ACCESS_KEY_ID")?.into(),
        secret_access_key: settings.needed("AWS_SECRET_ACCESS_KEY")?.into(),
        session_token: settings.secret("AWS_SESSION_TOKEN").map(Into::into),
        expires_in: None,
    });
    let region = settings.region()?;
    let mut service = S3::default()
        .bucket(bucket)
        .root(&format!("/{prefix}"))
        .region(region)
        .checksum_algorithm("crc32c")
        // Neither the environment nor a profile of the machine.
        .disable_config_load()
        .disable_ec2_metadata()
        .credential_provider_chain(ProvideCredentialChain::new().push(keys.clone()));
    let endpoint = settings.setting("endpoint", "AWS_ENDPOINT_URL");
    let mut port = 443; // of AWS
    match endpoint {
        Some(endpoint) => {
            port = check_endpoint(egress, endpoint)?;
            service = service.endpoint(endpoint.trim_end_matches('/'));
        }
        // AWS itself wants the bucket in the name; its certificate does not reach over another dot.
        None if !bucket.contains('.') => service = service.enable_virtual_host_style(),
        None => {}
    }
    if let Some(class) = settings.options.get("storageClass") {
        service = service.default_storage_class(class);
    }
    let operator = Operator::new(service).map_err(|e| {
        misconfigured(format!("the settings of {name} do not hold ({}): check endpoint and region", e.kind()))
    })?;
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut builder = client(settings.options.get("caBundle").map(String::as_str), plain)?;
    if egress.is_restricted() {
        builder = builder.no_proxy().dns_resolver(Guarded::new(Arc::clone(egress), port));
    }
    let client = builder.build().map_err(|_| {
        Failure::new(
            Reason::DestinationUnavailable,
            "no HTTPS client can be made: this system has no CA certificates. Mount a CA bundle, or set the option `caBundle`",
        )
    })?;
    let uploads =
        Uploads::new(client.clone(), keys, region, bucket_address(endpoint, region, bucket), prefix, name.into());
    Ok(ObjectStore::over_http(&operator, &client, egress, name).with_uploads(uploads))
}

/// Where OpenDAL finds the bucket with the settings above.
fn bucket_address(endpoint: Option<&str>, region: &str, bucket: &str) -> String {
    match endpoint {
        Some(endpoint) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        None if bucket.contains('.') => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        None => format!("https://{bucket}.s3.{region}.amazonaws.com"),
    }
}

/// The one link of the chain. The crate's own link prints its keys where it is logged, which the signer does at `debug`.
#[derive(Clone)]
struct Keys(Credential);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl ProvideCredential for Keys {
    type Credential = Credential;

    async fn provide_credential(&self, _: &Context) -> reqsign_core::Result<Option<Credential>> {
        Ok(Some(self.0.clone()))
    }
}

/// The endpoint's port, where it is a server alone, and none that is refused.
fn check_endpoint(egress: &Egress, endpoint: &str) -> Result<u16, Failure> {
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Err(misconfigured("the endpoint begins with https:// (or http://)"));
    };
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || rest.contains(['/', '?', '#', '@']) || rest.contains(char::is_whitespace) {
        return Err(misconfigured(
            "the endpoint is a server alone, as https://s3.example.org:9000: no path, no query, no credentials",
        ));
    }
    let url: reqwest::Url =
        endpoint.parse().map_err(|error| misconfigured(format!("the endpoint is no address of a server: {error}")))?;
    check_url(egress, &url)?;
    url.port_or_known_default().ok_or_else(|| misconfigured("the endpoint has no port"))
}

/// The HTTP client. Built here and not by OpenDAL, which panics where there is no certificate (an image `FROM scratch`).
fn client(ca_bundle: Option<&str>, plain: bool) -> Result<reqwest::ClientBuilder, Failure> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(Failure::new(Reason::Internal, "no TLS provider was installed at the start. Please report it"));
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("ubo/", env!("CARGO_PKG_VERSION")))
        // A signature holds for one host; and nobody may send us somewhere else.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .tcp_user_timeout(UNACKNOWLEDGED_LIMIT)
        .read_timeout(SILENCE_LIMIT);
    if let Some(pem) = ca_bundle {
        let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).ok().filter(|found| !found.is_empty());
        let Some(certificates) = certificates else {
            return Err(misconfigured("`caBundle` holds no certificate that can be read: it is PEM text"));
        };
        builder = builder.tls_certs_only(certificates);
    } else if plain {
        // Without TLS no certificate is needed, and there may be none.
        builder = builder.tls_certs_only([]);
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
    }

    fn s3_failure(options: &[(&str, &str)], credentials: &[(&str, &str)]) -> Option<Failure> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        build(&Address::parse("s3://bucket/x").unwrap(), &map(options), &map(credentials)).err()
    }

    const KEYS: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];

    #[test]
    fn a_missing_key_is_named() {
        for keys in [&[][..], &[("AWS_SECRET_ACCESS_KEY", "x")], &[("AWS_ACCESS_KEY_ID", " \n"), KEYS[1]]] {
            let failure = s3_failure(&[], keys).unwrap();
            assert_eq!(failure.reason, Reason::SecretKeyMissing);
            assert!(failure.message.starts_with("AWS_ACCESS_KEY_ID is missing"), "{failure}");
        }
        assert!(s3_failure(&[], &KEYS[..1]).unwrap().message.starts_with("AWS_SECRET_ACCESS_KEY"));
    }

    #[test]
    fn options_are_checked() {
        let http = ("endpoint", "http://localhost:9000/");
        assert_eq!(s3_failure(&[http], KEYS), None);
        for (option, value, word) in [
            ("endpont", "x", "endpont"),
            ("endpoint", "localhost:9000", "https://"),
            ("endpoint", "https://host/bucket", "no path"),
            ("endpoint", "https://u:p@host", "no credentials"),
            ("caBundle", "nonsense", "PEM"),
        ] {
            let failure = s3_failure(&[(option, value)], KEYS).unwrap();
            assert!(failure.message.contains(word), "{option}={value}: {failure}");
            assert_eq!(failure.reason, Reason::InvalidSpec);
            assert!(!failure.message.contains("hunter2"));
        }
    }

    #[test]
    fn a_region_is_one_word_wherever_it_stands() {
        for region in ["x.example.org/", "eu-west-1.example.org:8080/#", "a b", "hunter2@host", &"r".repeat(65)] {
            let keys = [KEYS, &[("AWS_REGION", region)]].concat();
            for failure in [s3_failure(&[], &keys), s3_failure(&[("region", region)], KEYS)] {
                let failure = failure.unwrap();
                assert_eq!(failure.reason, Reason::InvalidSpec);
                assert!(failure.message.contains("AWS_REGION") && !failure.message.contains(region), "{failure}");
            }
        }
        assert_eq!(s3_failure(&[], &[KEYS, &[("AWS_REGION", "eu-central-1\n")]].concat()), None);
        // The option goes first.
        assert_eq!(s3_failure(&[("region", "auto")], &[KEYS, &[("AWS_REGION", "a b")]].concat()), None);
    }

    #[test]
    fn an_endpoint_that_is_refused_is_refused_at_once() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let egress = Arc::new(Egress::of_operator());
        let address = Address::parse("s3://bucket/x").unwrap();
        let within =
            |endpoint: &str| build_within(&egress, &address, &map(&[("endpoint", endpoint)]), &map(KEYS)).err();
        for endpoint in ["http://127.0.0.1:9000", "http://2130706433:9000", "https://[::ffff:169.254.169.254]/"] {
            assert_eq!(within(endpoint).unwrap().reason, Reason::DestinationForbidden, "{endpoint}");
        }
        assert_eq!(within("http://localhost:9000"), None, "a name is looked at when it has been resolved");
        let secret = [KEYS, &[("AWS_ENDPOINT_URL", "http://127.0.0.1")]].concat();
        let failure = build_within(&egress, &address, &map(&[]), &map(&secret)).err().unwrap();
        assert_eq!(failure.reason, Reason::DestinationForbidden, "from the Secret, too");
    }

    #[test]
    fn keys_are_not_printed() {
        let credential = Credential { secret_access_key: "hunter2".into(), ..Credential::default() };
        assert_eq!(format!("{:?}", Keys(credential)), "Keys(..)");
    }

    #[test]
    fn a_folder_needs_nothing() {
        let address = Address::parse("file:///backups").unwrap();
        assert!(build(&address, &map(&[]), &map(&[])).is_ok());
        assert!(build(&address, &map(&[("region", "x")]), &map(&[])).is_err());
    }
}
