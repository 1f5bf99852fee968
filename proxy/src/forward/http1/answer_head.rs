//! The head of an answer, from the server's buffer to the client's.

use bytes::{Buf, BytesMut};

use super::{Answer, Broken, Exchange, Phase, Terms};
use crate::forward::pool::Upstream;
use crate::headers::AGAIN;
use crate::http1::{Body, ConnectionHeader, Rewrite, Version, write_response_head};

impl Exchange {
    pub(super) fn answer_head(
        &mut self,
        server: &mut Upstream,
        length: usize,
        terms: &Terms<'_>,
        answer: &mut Answer,
    ) -> Result<(), Broken> {
        let head = &self.response;
        let buffer = &server.buffer[..length];
        let switch = head.is_switch() || head.is_tunnel();
        let interim = head.is_interim() && !switch;
        if interim && terms.asked.version == Version::Http10 {
            // RFC 9110 section 15.2: not for HTTP/1.0 clients.
            server.buffer.advance(length);
            self.response.clear();
            return Ok(());
        }
        if !interim {
            if terms.again.refused
                && self.kept.is_some()
                && head.values(buffer, AGAIN).next().is_some()
            {
                return Err(Broken::Refused);
            }
            // It was given to somebody, and answered.
            self.kept = None;
        }
        let connection = if head.is_switch() {
            ConnectionHeader::Upgrade
        } else if self.close && !interim {
            ConnectionHeader::Close
        } else {
            ConnectionHeader::Persist
        };
        let rewrite = Rewrite {
            remove: terms.remove,
            set: &[],
            connection,
        };
        let mut out = BytesMut::with_capacity(length + 32);
        write_response_head(&mut out, head, buffer, &rewrite);
        if !interim {
            answer.status = Some(head.status());
            answer.first_byte = Some(self.started.elapsed());
            answer.reason = head
                .values(buffer, "x-kith-reason")
                .next()
                .and_then(|value| std::str::from_utf8(value).ok())
                .and_then(|value| value.parse().ok());
            self.persistent = head.persistent();
            self.close |= !switch && matches!(head.framing(), crate::http1::Framing::UntilClose);
        }
        self.phase = if switch {
            Phase::Switching
        } else if interim {
            Phase::Head
        } else {
            Phase::Body(Body::new(head.framing()))
        };
        server.buffer.advance(length);
        self.response.clear();
        // The start of the body goes out together with the head.
        if let Phase::Body(body) = &mut self.phase
            && !server.buffer.is_empty()
            && !body.is_done()
        {
            let progress = body.advance(&server.buffer).map_err(Broken::Malformed)?;
            out.extend_from_slice(&server.buffer[..progress.consumed]);
            server.buffer.advance(progress.consumed);
        }
        self.to_client = out;
        self.client_unflushed = true;
        Ok(())
    }
}
