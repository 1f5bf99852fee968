//! A control plane without a mind of its own: it says what the test has it say, over the real wire, with a real SVID, and
//! hands over what the sidecar answers.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Response};
use kith::lab::Workload;
use kith_xds_client::Kind;
use kith_xds_client::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::caller::Caller;

/// Port that it listens on.
pub const PORT: u16 = 15010;

/// The control plane, for one sidecar at a time.
#[derive(Debug)]
pub struct Xds {
    requests: mpsc::UnboundedReceiver<DeltaDiscoveryRequest>,
    responses: mpsc::UnboundedSender<DeltaDiscoveryResponse>,
    nonce: u64,
}

impl Xds {
    /// Listens inside a workload, as the principal of `caller`.
    pub async fn listen(workload: &Arc<Workload>, caller: Caller) -> Self {
        let (heard, requests) = mpsc::unbounded_channel();
        let (responses, said) = mpsc::unbounded_channel();
        let inside = Arc::clone(workload);
        tokio::spawn(async move { inside.enter(move || serve(caller, heard, said)).await });
        workload.listening(PORT).await.unwrap();
        Self {
            requests,
            responses,
            nonce: 0,
        }
    }

    /// The next request that subscribes to this kind; answers to earlier responses are passed over.
    pub async fn subscription(&mut self, kind: Kind) -> Vec<String> {
        loop {
            let request = self.request().await;
            if request.type_url == kind.type_url() && !request.resource_names_subscribe.is_empty() {
                return request.resource_names_subscribe;
            }
        }
    }

    /// Sends resources, each with its name, and gives back what the sidecar says to them: `None` is an ACK, otherwise
    /// the reason of the NACK.
    pub async fn send(&mut self, kind: Kind, resources: &[(&str, Vec<u8>)]) -> Option<String> {
        let nonce = self.say(kind, resources);
        self.answer(&nonce).await
    }

    /// As [`Xds::send`], without waiting for an answer.
    pub fn say(&mut self, kind: Kind, resources: &[(&str, Vec<u8>)]) -> String {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let resource = |(name, bytes): &(&str, Vec<u8>)| Resource {
            name: (*name).to_owned(),
            version: nonce.clone(),
            resource: Some(prost_types::Any {
                type_url: kind.type_url().to_owned(),
                value: bytes.clone(),
            }),
            ..Resource::default()
        };
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            nonce: nonce.clone(),
            resources: resources.iter().map(resource).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.responses.send(response).unwrap();
        nonce
    }

    /// Takes a resource back, and gives what the sidecar says to that.
    pub async fn take_back(&mut self, kind: Kind, name: &str) -> Option<String> {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            nonce: nonce.clone(),
            removed_resources: vec![name.to_owned()],
            ..DeltaDiscoveryResponse::default()
        };
        self.responses.send(response).unwrap();
        self.answer(&nonce).await
    }

    /// What the sidecar says to a response.
    pub async fn answer(&mut self, nonce: &str) -> Option<String> {
        loop {
            let request = self.request().await;
            if request.response_nonce == nonce {
                return request.error_detail.map(|status| status.message);
            }
        }
    }

    async fn request(&mut self) -> DeltaDiscoveryRequest {
        let next = tokio::time::timeout(std::time::Duration::from_secs(10), self.requests.recv());
        next.await.expect("a request in 10 s").unwrap()
    }
}

async fn serve(
    caller: Caller,
    heard: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    mut said: mpsc::UnboundedReceiver<DeltaDiscoveryResponse>,
) {
    let listener = TcpListener::bind(("::", PORT)).await.unwrap();
    let acceptor = caller.acceptor(&[b"h2"]);
    while let Ok((tcp, _)) = listener.accept().await {
        let Ok(tls) = acceptor.accept(tcp).await else {
            continue;
        };
        let Ok(mut connection) = h2::server::handshake(tls).await else {
            continue;
        };
        let Some(Ok((request, mut respond))) = connection.accept().await else {
            continue;
        };
        let mut answer = Response::new(());
        answer
            .headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
        let Ok(mut stream) = respond.send_response(answer, false) else {
            continue;
        };
        let mut body = request.into_body();
        let mut received = BytesMut::new();
        loop {
            tokio::select! {
                // Drives the connection; there is one stream, so that another request is none.
                other = connection.accept() => if other.is_none() { break },
                data = body.data() => {
                    let Some(Ok(bytes)) = data else { break };
                    let _ = body.flow_control().release_capacity(bytes.len());
                    received.extend_from_slice(&bytes);
                    while let Some(message) = next(&mut received) {
                        let _ = heard.send(DeltaDiscoveryRequest::decode(message).unwrap());
                    }
                }
                response = said.recv() => {
                    let Some(response) = response else {
                        let _ = stream.send_trailers(HeaderMap::new());
                        return;
                    };
                    let mut frame = BytesMut::new();
                    frame.put_u8(0);
                    frame.put_u32(u32::try_from(response.encoded_len()).unwrap());
                    response.encode(&mut frame).unwrap();
                    let _ = stream.send_data(frame.freeze(), false);
                }
            }
        }
    }
}

/// The next whole message (gRPC over HTTP/2: a flag, a length, the message).
fn next(received: &mut BytesMut) -> Option<Bytes> {
    let mut prefix = received.get(1..5)?;
    let length = prefix.get_u32() as usize;
    if received.len() < 5 + length {
        return None;
    }
    received.advance(5);
    Some(received.split_to(length).freeze())
}
