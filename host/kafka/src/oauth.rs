//! Tokens for OAUTHBEARER: from the configuration, or fetched with the client credentials of OpenID
//! Connect.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use projector_config::Oidc;
use projector_core::instant::now_ms;

/// How long the token endpoint may take.
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes that are read of the endpoint's answer.
const MOST_ANSWER_BYTES: u64 = 1 << 20;
/// The lifetime of a token that does not say when it expires. The operator's tool replaces such a token in
/// time.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// A token, and when it expires.
pub(super) struct Token {
    pub(super) value: String,
    /// Milliseconds since 1970.
    pub(super) expires_ms: i64,
}

/// What a token endpoint answers.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    expires_in: Option<f64>,
    error: Option<String>,
    error_description: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
}

impl Token {
    /// A token from the configuration. If it is a JWT, its claims say when it expires.
    pub(super) fn given(value: &str) -> Self {
        let claims = value.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok());
        let expires_ms = claims.and_then(|claims| claims.exp).map(|seconds| (seconds * 1_000.0) as i64);
        let unknown = now_ms() + UNKNOWN_LIFETIME.as_millis() as i64;
        Self { value: value.to_owned(), expires_ms: expires_ms.unwrap_or(unknown) }
    }

    pub(super) fn has_expired(&self) -> bool {
        self.expires_ms <= now_ms()
    }

    /// When to fetch the next token: after three quarters of the remaining lifetime.
    pub(super) fn renew_after(&self) -> Duration {
        let left = u64::try_from(self.expires_ms - now_ms()).unwrap_or(0);
        Duration::from_millis(left / 4 * 3).max(Duration::from_secs(1))
    }
}

/// Requests a token. The error names the endpoint, and never contains the secret.
pub(super) fn fetch(oidc: &Oidc) -> Result<Token, String> {
    let endpoint = &*oidc.token_endpoint;
    let failed = |reason: String| format!("the token endpoint {endpoint} returned no token: {reason}");
    let secret = oidc.client_secret.current().map_err(|error| failed(error.to_string()))?;
    let login = STANDARD.encode(format!("{}:{}", encode(&oidc.client_id), encode(&secret)));
    let mut form = vec![("grant_type", "client_credentials")];
    if let Some(scope) = &oidc.scope {
        form.push(("scope", &**scope));
    }
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .timeout_global(Some(ENDPOINT_TIMEOUT))
            .http_status_as_error(false)
            // A redirect would send the secret somewhere else.
            .max_redirects(0)
            .tls_config(tls(oidc).map_err(failed)?)
            .build(),
    );
    let answer = agent.post(endpoint).header("authorization", format!("Basic {login}")).send_form(form);
    let mut answer = answer.map_err(|error| failed(error.to_string()))?;
    let status = answer.status();
    let body = answer.body_mut().with_config().limit(MOST_ANSWER_BYTES).read_to_string();
    let body = body.map_err(|error| failed(error.to_string()))?;
    let parsed: Option<Answer> = serde_json::from_str(&body).ok();
    let Some(answer) = parsed else {
        return Err(failed(format!("the answer, with status {status}, is not a JSON object with a token")));
    };
    if let Some(value) = answer.access_token.filter(|_| status.is_success()) {
        let token = Token::given(&value);
        let expires_ms = answer.expires_in.map(|seconds| now_ms() + (seconds * 1_000.0) as i64);
        return Ok(Token { expires_ms: expires_ms.unwrap_or(token.expires_ms), value });
    }
    let reason = [answer.error, answer.error_description].into_iter().flatten();
    let reason = reason.collect::<Vec<_>>().join(": ");
    Err(failed(format!("the answer is {status} {reason}").replace(&secret, "…").trim_end().to_owned()))
}

/// The certificate authorities of the configured file, or else the system's.
fn tls(oidc: &Oidc) -> Result<TlsConfig, String> {
    let authorities: Vec<Certificate<'static>> = match &oidc.ca {
        Some(file) => {
            let pem = std::fs::read(&**file).map_err(|error| format!("{}: {error}", &**file))?;
            let items = ureq::tls::parse_pem(&pem).collect::<Result<Vec<_>, _>>();
            let items = items.map_err(|error| format!("{}: {error}", &**file))?;
            let certificate = |item| match item {
                ureq::tls::PemItem::Certificate(certificate) => Some(certificate),
                _ => None,
            };
            items.into_iter().filter_map(certificate).collect()
        }
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            found.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::Specific(Arc::new(authorities)))
        .build())
}

/// Percent-encodes a text for a form, and so for a user and a password in `Authorization: Basic` (RFC 6749,
/// 2.3.1).
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_expires_when_its_claims_say_so() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"a","exp":1700000000.5}"#);
        assert_eq!(Token::given(&format!("e30.{claims}.")).expires_ms, 1_700_000_000_500);
        assert!(Token::given(&format!("e30.{claims}.")).has_expired());
        let opaque = Token::given("opaque");
        assert!(!opaque.has_expired() && opaque.renew_after() > Duration::from_secs(3600));
    }

    #[test]
    fn a_client_secret_is_encoded_as_a_form_is() {
        assert_eq!(encode("a b:ü/~"), "a%20b%3A%C3%BC%2F~");
    }
}
