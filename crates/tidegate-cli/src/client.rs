//! The client of the other commands: it uses the API of a running node, through the socket in its
//! folder.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::problem::Problem;

/// The timeout of a request.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a node.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects to the node whose socket this is.
    pub(crate) fn connect(path: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            let name = || format!("{}: no node runs there", path.display());
            let stream = tokio::net::UnixStream::connect(path).await.with_context(name)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            anyhow::Ok(sender)
        })?;
        Ok(Self { runtime, sender })
    }

    /// Asks for something.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path, Bytes::new())
    }

    /// Hands something over.
    pub(crate) fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.ask(Method::POST, path, serde_json::to_vec(body)?.into())
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<T> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let Self { runtime, sender } = self;
        let asked = async {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        let asked = async { tokio::time::timeout(PATIENCE, asked).await };
        let answer = runtime.block_on(asked).map_err(|_| anyhow!("not within {PATIENCE:?}"));
        let (status, body) =
            answer.and_then(|answer| answer).context("the node does not answer")?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).context("the node answers in another form");
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => bail!(problem.detail),
            Err(_) => bail!("the node answers {status}"),
        }
    }
}
