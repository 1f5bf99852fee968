//! JSON as the access log needs it: flat, append-only, no allocation once the buffer has grown.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No value is longer than this; what a caller sends must not be able to flood the log.
const LONGEST_VALUE: usize = 4096;

/// Appends `,"key":value` members. Keys are literals of this program and need no escaping.
pub(super) struct Json<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Json<'a> {
    /// Members that follow another one, or are to be put behind one later.
    pub(super) fn fragment(out: &'a mut Vec<u8>) -> Self {
        Json { out }
    }

    fn key(&mut self, key: &'static str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Nothing at all when the value is empty: keys are absent when unknown.
    pub(super) fn text(&mut self, key: &'static str, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        self.key(key);
        self.out.push(b'"');
        escape(value, self.out);
        self.out.push(b'"');
    }

    /// A value of this program's own that needs no escaping.
    pub(super) fn literal(&mut self, key: &'static str, value: &str) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    pub(super) fn display(&mut self, key: &'static str, value: &impl fmt::Display) {
        self.key(key);
        self.out.push(b'"');
        // Appending to a vector cannot fail.
        let _ = write!(Escaped(self.out), "{value}");
        self.out.push(b'"');
    }

    pub(super) fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        self.out
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Milliseconds with three decimals: a sidecar's own share is a fraction of one.
    pub(super) fn milliseconds(&mut self, key: &'static str, value: Duration) {
        self.key(key);
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.out
            .extend_from_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
        self.out.push(b'.');
        digits(micros % 1000, 3, self.out);
    }

    pub(super) fn hex<const BYTES: usize>(&mut self, key: &'static str, value: &[u8; BYTES]) {
        self.key(key);
        self.out.push(b'"');
        let start = self.out.len();
        self.out.resize(start + 2 * BYTES, 0);
        write_hex(value, &mut self.out[start..]);
        self.out.push(b'"');
    }

    pub(super) fn time(&mut self, key: &'static str, value: SystemTime) {
        self.key(key);
        self.out.push(b'"');
        timestamp(value, self.out);
        self.out.push(b'"');
    }

    /// `<32 hex digits>-<ordinal>`
    pub(super) fn hop(&mut self, key: &'static str, id: &[u8; 32], ordinal: u64) {
        self.key(key);
        hop(id, ordinal, self.out);
    }

    pub(super) fn hops<'h>(
        &mut self,
        key: &'static str,
        hops: impl Iterator<Item = (&'h [u8; 32], u64)>,
    ) {
        self.key(key);
        let mut separator = b'[';
        for (id, ordinal) in hops {
            self.out.push(separator);
            hop(id, ordinal, self.out);
            separator = b',';
        }
        self.out.push(b']');
    }

    /// `[{"policy":"…","decision":"…"}]`: what policies that don't decide say. Decisions are this program's own words.
    pub(super) fn shadow<'s>(&mut self, said: impl Iterator<Item = (&'s str, &'s str)>) {
        self.key("shadow");
        let mut separator = b'[';
        for (policy, decision) in said {
            self.out.push(separator);
            self.out.extend_from_slice(b"{\"policy\":\"");
            escape(policy.as_bytes(), self.out);
            self.out.extend_from_slice(b"\",\"decision\":\"");
            self.out.extend_from_slice(decision.as_bytes());
            self.out.extend_from_slice(b"\"}");
            separator = b',';
        }
        self.out.push(b']');
    }
}

fn hop(id: &[u8; 32], ordinal: u64, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(id);
    out.push(b'-');
    out.extend_from_slice(itoa::Buffer::new().format(ordinal).as_bytes());
    out.push(b'"');
}

struct Escaped<'a>(&'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(text.as_bytes(), self.0);
        Ok(())
    }
}

/// RFC 8259 section 7, and more: DEL, the C1 controls and what is not UTF-8 never reach the log, because a log is
/// also read in terminals (security.md, row 27).
pub(super) fn escape(value: &[u8], out: &mut Vec<u8>) {
    let (value, cut) = match value.get(..LONGEST_VALUE) {
        Some(head) if value.len() > LONGEST_VALUE => (head, true),
        _ => (value, false),
    };
    if value
        .iter()
        .all(|byte| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\'))
    {
        out.extend_from_slice(value);
    } else {
        for chunk in value.utf8_chunks() {
            chunk
                .valid()
                .chars()
                .for_each(|character| escape_char(character, out));
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    if cut {
        out.extend_from_slice("…".as_bytes());
    }
}

fn escape_char(character: char, out: &mut Vec<u8>) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // Line and paragraph separators end lines for some readers; bidirectional controls reorder what a person sees.
        '\u{2028}'
        | '\u{2029}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => {
            unicode_escape(character, out);
        }
        control if control.is_control() => unicode_escape(control, out),
        other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Only for the basic plane, where all that is escaped lives.
fn unicode_escape(character: char, out: &mut Vec<u8>) {
    let [_, _, high, low] = u32::from(character).to_be_bytes();
    out.extend_from_slice(b"\\u");
    out.extend_from_slice(&hex_of(high));
    out.extend_from_slice(&hex_of(low));
}

/// Two digits for each byte.
pub(super) fn write_hex(bytes: &[u8], out: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair.copy_from_slice(&hex_of(*byte));
    }
}

fn hex_of(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [
        DIGITS[usize::from(byte >> 4)],
        DIGITS[usize::from(byte & 15)],
    ]
}

/// `width` decimal digits, zeros in front.
fn digits(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let end = out.len() + width;
    out.resize(end, b'0');
    for digit in out.iter_mut().rev().take(width) {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
}

/// RFC 3339 in UTC with milliseconds. Years before 1970 are written as 1970.
pub(super) fn timestamp(time: SystemTime, out: &mut Vec<u8>) {
    thread_local! {
        /// The date and time of day of the last second written; most records share theirs with the one before.
        static LAST: Cell<(u64, [u8; 19])> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let mut text = LAST
        .try_with(Cell::get)
        .unwrap_or((0, *b"1970-01-01T00:00:00"));
    if text.0 != seconds {
        text = (seconds, date_and_time(seconds));
        // Only a thread that is being torn down has no cache any more.
        let _ = LAST.try_with(|last| last.set(text));
    }
    out.extend_from_slice(&text.1);
    out.push(b'.');
    digits(since.subsec_millis().into(), 3, out);
    out.push(b'Z');
}

/// The civil date of a day count, after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn date_and_time(seconds: u64) -> [u8; 19] {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);

    let mut out = Vec::with_capacity(19);
    let parts = [
        (year.min(9999), 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (seconds / 3600 % 24, 2, b':'),
        (seconds / 60 % 60, 2, b':'),
        (seconds % 60, 2, b' '),
    ];
    for (value, width, separator) in parts {
        digits(value, width, &mut out);
        out.push(separator);
    }
    let mut text = [0; 19];
    text.copy_from_slice(&out[..19]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &[u8]) -> String {
        let mut out = Vec::new();
        escape(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn written(seconds: u64, millis: u32) -> String {
        let mut out = Vec::new();
        timestamp(
            UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000),
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(written(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(written(1_795_317_255, 926), "2026-11-22T03:14:15.926Z");
        assert_eq!(written(951_782_399, 7), "2000-02-28T23:59:59.007Z");
        assert_eq!(written(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(written(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
        assert_eq!(written(4_107_542_399, 999), "2100-02-28T23:59:59.999Z");
    }

    #[test]
    fn row_27_no_value_can_forge_a_line_or_a_member() {
        assert_eq!(escaped(b"plain /path"), "plain /path");
        assert_eq!(
            escaped(b"a\"b\\c\r\n\t\0\x1b[31m\x7f"),
            r#"a\"b\\c\r\n\t\u0000\u001b[31m\u007f"#
        );
        assert_eq!(
            escaped("é\u{85}\u{2028}\u{202e}😀".as_bytes()),
            "é\\u0085\\u2028\\u202e😀"
        );
        assert_eq!(escaped(b"\xff\xc3(\xe2\x82"), "\u{fffd}\u{fffd}(\u{fffd}");
    }

    #[test]
    fn every_byte_and_pair_of_bytes_survives_a_json_parser() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let text = format!("\"{}\"", escaped(&[first, second]));
                let parsed: String = serde_json::from_str(&text).unwrap();
                assert_eq!(parsed, String::from_utf8_lossy(&[first, second]));
            }
        }
    }

    #[test]
    fn long_values_are_cut_and_say_so() {
        let text = escaped(&vec![b'a'; 100_000]);
        assert_eq!(text.len(), LONGEST_VALUE + "…".len());
        assert!(text.ends_with('…'));
    }

    #[test]
    fn milliseconds_keep_microseconds() {
        let mut out = Vec::new();
        Json::fragment(&mut out).milliseconds("duration_ms", Duration::from_micros(12_034));
        assert_eq!(String::from_utf8(out).unwrap(), r#","duration_ms":12.034"#);
    }
}
