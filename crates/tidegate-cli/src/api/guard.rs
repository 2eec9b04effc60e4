//! Access control. On the node's socket all that can open it may ask; on loopback all on this
//! machine, except web pages; on other addresses only clients with the token.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tidegate::Identity;

use super::problem::Problem;

/// The path that needs no token.
pub(crate) const HEALTH: &str = "/health";

const SEC_FETCH_SITE: &str = "sec-fetch-site";
const OTHER_SITE: &str = "pages of other sites may not ask this node";

/// The rules at one address.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// The hash of the token, if one is required: comparing hashes takes the same time for every
    /// guess.
    token: Option<blake3::Hash>,
}

impl Guard {
    /// The rules for an address. One that others can reach must have a token; the token file is
    /// created if it is missing.
    pub(crate) fn new(at: SocketAddr, file: &Path, wanted: bool) -> anyhow::Result<Arc<Self>> {
        let token = if wanted || !at.ip().is_loopback() {
            Some(blake3::hash(token(file)?.as_bytes()))
        } else {
            None
        };
        Ok(Arc::new(Self { token }))
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
        let text = |name: &str| {
            headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok())
        };
        let host = text(header::HOST.as_str()).unwrap_or_default();
        // Browsers name a page's origin here even where they send no Origin, as for images, scripts
        // and forms (Fetch Metadata). Another port of this machine is the same site to them, but
        // not the same origin.
        if matches!(text(SEC_FETCH_SITE), Some("cross-site" | "same-site")) {
            return Err(Problem::new(StatusCode::FORBIDDEN, OTHER_SITE));
        }
        // A page of another site, even if its name resolves to this machine.
        if let Some(origin) = headers.get(header::ORIGIN) {
            let own = [format!("http://{host}"), format!("https://{host}")];
            if host.is_empty() || !own.iter().any(|own| origin.as_bytes() == own.as_bytes()) {
                return Err(Problem::new(StatusCode::FORBIDDEN, OTHER_SITE));
            }
        }
        if path == HEALTH {
            return Ok(());
        }
        let Some(wanted) = &self.token else {
            return if is_local(host) {
                Ok(())
            } else {
                let detail = format!("{host:?} is no name of this machine: ask 127.0.0.1");
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            };
        };
        let given =
            text(header::AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
        if given.is_some_and(|given| blake3::hash(given.trim().as_bytes()) == *wanted) {
            Ok(())
        } else {
            let detail = "give the node's token: `Authorization: Bearer …`, from its api.token";
            Err(Problem::new(StatusCode::UNAUTHORIZED, detail))
        }
    }
}

/// Refuses requests that the rules do not allow.
pub(crate) async fn guard(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let checked = guard.check(request.uri().path(), request.headers());
    // A refused client must not keep its connection, since pages of other sites could take all of
    // them. Neither may one that needs no token.
    let closes = checked.is_err() || request.uri().path() == HEALTH && guard.token.is_some();
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    if closes {
        let close = header::HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Whether a Host header names this machine. A name in a stranger's DNS that resolves to 127.0.0.1
/// does not (DNS rebinding).
fn is_local(host: &str) -> bool {
    let name = match host.parse::<SocketAddr>() {
        Ok(address) => return address.ip().is_loopback(),
        Err(_) => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let address = address.or_else(|_| name.trim_matches(['[', ']']).parse());
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Reads the token, or creates it. The file has the same form and the same rules as a key file:
/// only its owner may read it.
fn token(file: &Path) -> anyhow::Result<String> {
    let name = || file.display().to_string();
    if !file.exists() {
        Identity::generate()?.create(file)?;
        tracing::info!("a token for the API is made: {}", name());
    }
    Identity::load(file).context("the token of the API")?;
    let text = std::fs::read_to_string(file).with_context(name)?;
    match text.trim() {
        "" => bail!("{}: an empty token", name()),
        token => Ok(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn status(guard: &Guard, pairs: &[(header::HeaderName, &str)]) -> u16 {
        guard.check("/v1/status", &headers(pairs)).map_or_else(|problem| problem.status, |()| 200)
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let guard = Guard { token: None };
        let host = (header::HOST, "127.0.0.1:4080");
        assert_eq!(status(&guard, std::slice::from_ref(&host)), 200);
        for (origin, expected) in [
            ("http://127.0.0.1:4080", 200),
            ("http://example.org", 403),
            ("http://127.0.0.1:4081", 403),
            ("null", 403),
        ] {
            let headers = [host.clone(), (header::ORIGIN, origin)];
            assert_eq!(status(&guard, &headers), expected, "{origin}");
        }
        // What a browser sends for an image or a script of another site has no Origin.
        for (site, expected) in
            [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
        {
            let name = header::HeaderName::from_static(SEC_FETCH_SITE);
            let headers = [host.clone(), (name, site)];
            assert_eq!(status(&guard, &headers), expected, "{site}");
        }
        for (host, expected) in [
            ("localhost:4080", 200),
            ("LOCALHOST", 200),
            ("[::1]:4080", 200),
            ("::1", 200),
            ("127.0.0.2:1", 200),
            ("rebound.example.org:4080", 403),
            ("localhost.example.org", 403),
            ("192.0.2.1:4080", 403),
            ("", 403),
        ] {
            assert_eq!(status(&guard, &[(header::HOST, host)]), expected, "{host}");
        }
        assert_eq!(status(&guard, &[]), 403);
    }

    #[test]
    fn requests_from_elsewhere_need_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("api.token");
        let guard = Guard::new("0.0.0.0:80".parse().unwrap(), &file, false).unwrap();
        let host = (header::HOST, "node.example.org");
        let token = std::fs::read_to_string(&file).unwrap();
        let with = |value: String| status(&guard, &[host.clone(), (header::AUTHORIZATION, &value)]);
        assert_eq!(with(format!("Bearer {}", token.trim())), 200);
        assert_eq!(with(format!("Bearer {}0", token.trim())), 401);
        assert_eq!(with(token.trim().to_owned()), 401);
        assert_eq!(status(&guard, &[host]), 401);
        assert!(guard.check(HEALTH, &headers(&[])).is_ok());
        // The same token after a restart; and on loopback only if it is requested.
        let loopback = "127.0.0.1:80".parse().unwrap();
        let again = Guard::new(loopback, &file, true).unwrap();
        assert_eq!(again.token, guard.token);
        assert!(Guard::new(loopback, &file, false).unwrap().token.is_none());
    }
}
