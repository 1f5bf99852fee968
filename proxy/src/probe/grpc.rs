//! A gRPC probe, as the kubelet makes it: `grpc.health.v1.Health/Check` without TLS; SERVING is good.

use std::net::SocketAddr;

use ::http::{HeaderMap, Request};
use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;

use super::http::AGENT;
use super::{Place, Verdict, no_connection};

/// A health answer has a few bytes.
const LARGEST_ANSWER: usize = 1024;
const LARGEST_HEADERS: u32 = 64 * 1024;

pub(super) async fn check(port: u16, service: &str, place: &Place) -> Result<Verdict, String> {
    let tcp = place
        .connect(port)
        .await
        .map_err(|error| no_connection(port, &error))?;
    let broken =
        |error: h2::Error| format!("the application gave no gRPC answer on port {port}: {error}");
    let (mut client, connection) = h2::client::Builder::new()
        .enable_push(false)
        .max_header_list_size(LARGEST_HEADERS)
        .handshake::<_, Bytes>(tcp)
        .await
        .map_err(broken)?;
    // The connection is driven here, so that it ends with the probe.
    let asking = async {
        client = client.ready().await.map_err(broken)?;
        let authority = SocketAddr::new(place.ip, port);
        let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", AGENT)
            .body(())
            .map_err(|error| error.to_string())?;
        let (response, mut send) = client.send_request(request, false).map_err(broken)?;
        send.send_data(question(service), true).map_err(broken)?;
        let (head, mut body) = response.await.map_err(broken)?.into_parts();
        if head.status != 200 {
            return Err(format!(
                "the application answered {}, which is not gRPC",
                head.status
            ));
        }
        let message = read(&mut body).await.map_err(broken)?;
        let trailers = body.trailers().await.map_err(broken)?;
        let status = trailers
            .as_ref()
            .and_then(grpc_status)
            .or_else(|| grpc_status(&head.headers));
        judge(service, status, message.as_deref())
    };
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        judged = &mut asking => judged,
        // An answer may have come together with the end; where none has, the end is what asking fails with.
        _ = connection => asking.await,
    }
}

fn judge(service: &str, status: Option<u32>, message: Option<&[u8]>) -> Result<Verdict, String> {
    let named = if service.is_empty() {
        "the application".to_owned()
    } else {
        format!("the application's service {service:?}")
    };
    match (status, message.and_then(serving_status)) {
        (Some(0), Some(1)) => Ok(Verdict::good(format!("{named} is SERVING"))),
        (Some(0), Some(serving)) => {
            let word = match serving {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "in a state that nobody knows",
            };
            Err(format!("{named} is {word}"))
        }
        (Some(0), None) => Err(format!("{named} gave no answer that grpc.health.v1 knows")),
        (Some(5), _) => Err(format!("{named} is not known to its health service (NOT_FOUND)")),
        (Some(12), _) => Err(
            "the application does not offer grpc.health.v1.Health (UNIMPLEMENTED); register it, or use another probe"
                .into(),
        ),
        (Some(status), _) => Err(format!("{named} answered with gRPC status {status}")),
        (None, _) => Err(format!("{named} answered without a gRPC status")),
    }
}

/// `HealthCheckRequest { string service = 1; }`, in one uncompressed message.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.unsplit(message);
    out.freeze()
}

/// The first message, without its head. None: there is none, or it is compressed, or too long.
async fn read(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let mut read = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        let _ = body.flow_control().release_capacity(chunk.len());
        if read.len() + chunk.len() > LARGEST_ANSWER {
            return Ok(None);
        }
        read.extend_from_slice(&chunk);
    }
    let read = read.freeze();
    let whole = read.len() >= 5
        && read[0] == 0
        && read[1..5]
            == u32::try_from(read.len() - 5)
                .unwrap_or(u32::MAX)
                .to_be_bytes();
    Ok(whole.then(|| read.slice(5..)))
}

/// `HealthCheckResponse { ServingStatus status = 1; }`; an enum's zero is not written (proto3).
fn serving_status(message: &[u8]) -> Option<u64> {
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => drop(varint(&mut rest)?),
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 1) => rest = rest.get(8..)?,
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_names_the_service() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn the_answer_is_read_as_protobuf() {
        for (message, expected) in [
            (&[][..], Some(0)),
            (&[8, 1], Some(1)),
            (&[8, 2], Some(2)),
            (&[0x12, 1, 7, 8, 1], Some(1)),
            (&[8], None),
            (&[8, 0x80], None),
            (&[0x12, 9, 1], None),
            (&[0x0b], None),
        ] {
            assert_eq!(serving_status(message), expected, "{message:?}");
        }
    }
}
