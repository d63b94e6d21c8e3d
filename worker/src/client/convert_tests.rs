use serde::Deserialize;
use serde_json::{Map, Value};

use super::convert::{to_json, to_msgpack};

fn msgpack(json: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    to_msgpack(json.as_bytes(), &mut bytes);
    bytes
}

fn json(msgpack: &[u8]) -> String {
    let mut bytes = Vec::new();
    to_json(msgpack, &mut bytes);
    String::from_utf8(bytes).expect("UTF-8")
}

fn float(n: f64) -> Vec<u8> {
    [&b"\xcb"[..], &n.to_be_bytes()].concat()
}

/// Each is what the other becomes.
#[test]
fn both_ways() {
    for (text, bytes) in [
        ("null", b"\xc0".to_vec()),
        ("false", b"\xc2".to_vec()),
        ("true", b"\xc3".to_vec()),
        ("0", b"\0".to_vec()),
        ("127", b"\x7f".to_vec()),
        ("128", b"\xcc\x80".to_vec()),
        ("256", b"\xcd\x01\0".to_vec()),
        ("65536", b"\xce\0\x01\0\0".to_vec()),
        ("9007199254740993", b"\xcf\0\x20\0\0\0\0\0\x01".to_vec()),
        (
            "18446744073709551615",
            b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        ),
        ("-1", b"\xff".to_vec()),
        ("-32", b"\xe0".to_vec()),
        ("-33", b"\xd0\xdf".to_vec()),
        ("-32768", b"\xd1\x80\0".to_vec()),
        ("-2147483648", b"\xd2\x80\0\0\0".to_vec()),
        ("-9223372036854775808", b"\xd3\x80\0\0\0\0\0\0\0".to_vec()),
        ("1.0", float(1.0)),
        ("-0.0", float(-0.0)),
        ("0.1", float(0.1)),
        ("5e-324", float(5e-324)),
        ("1.7976931348623157e+308", float(f64::MAX)),
        ("\"\"", b"\xa0".to_vec()),
        (
            "\"弾\\\"\\\\\\u0001\"",
            b"\xa6\xe5\xbc\xbe\"\\\x01".to_vec(),
        ),
        ("[]", b"\x90".to_vec()),
        ("{}", b"\x80".to_vec()),
        (
            "[[],{},[1,2],\"x\"]",
            b"\x94\x90\x80\x92\x01\x02\xa1x".to_vec(),
        ),
        (
            "{\"a\":1,\"b\":{\"c\":[null]},\"a\":[]}",
            b"\x83\xa1a\x01\xa1b\x81\xa1c\x91\xc0\xa1a\x90".to_vec(),
        ),
        ("{\"$bin\":\"\"}", b"\xc4\0".to_vec()),
        ("{\"$bin\":\"AP9h\"}", b"\xc4\x03\0\xffa".to_vec()),
        (
            "[{\"$bin\":\"AA==\"},{\"$bin\":\"/+8=\"}]",
            b"\x92\xc4\x01\0\xc4\x02\xff\xef".to_vec(),
        ),
    ] {
        assert_eq!(msgpack(text), bytes, "{text}");
        assert_eq!(json(&bytes), text);
    }
}

#[test]
fn json_that_can_be_written_in_other_ways() {
    for (text, bytes) in [
        (" [ 1 ,\n\t2 ] ", b"\x92\x01\x02".to_vec()),
        (" [ ] ", b"\x90".to_vec()),
        ("{ \"a\" : { } }", b"\x81\xa1a\x80".to_vec()),
        (
            "\"\\b\\f\\n\\r\\t\\/\\u00e4\\ud83d\\ude00\"",
            b"\xac\x08\x0c\n\r\t/\xc3\xa4\xf0\x9f\x98\x80".to_vec(),
        ),
        // Half a pair, at the end and before other things.
        ("\"\\ud83d\"", b"\xa3\xef\xbf\xbd".to_vec()),
        ("\"\\ude00x\"", b"\xa4\xef\xbf\xbdx".to_vec()),
        ("\"\\ud83d\\n\"", b"\xa4\xef\xbf\xbd\n".to_vec()),
        ("\"\\ud83d\\u0041\"", b"\xa4\xef\xbf\xbdA".to_vec()),
        ("\"[{,]:\\\"\"", b"\xa6[{,]:\"".to_vec()),
        ("[\"]\",\",\"]", b"\x92\xa1]\xa1,".to_vec()),
        ("-0", float(-0.0)),
        ("1e3", float(1000.0)),
        ("1E+2", float(100.0)),
        ("18446744073709551616", float(18_446_744_073_709_551_616.0)),
        ("-9223372036854775809", float(-9_223_372_036_854_775_808.0)),
        // No client is given an infinite number.
        ("1e999", float(f64::MAX)),
        ("-1e999", float(f64::MIN)),
        ("1e-999", float(0.0)),
        (
            "{ \"\\u0024bin\" : \"\\u0041A==\" }",
            b"\xc4\x01\0".to_vec(),
        ),
        // Not what we call bytes.
        ("{\"$bin\":\"A\"}", b"\x81\xa4$bin\xa1A".to_vec()),
        ("{\"$bin\":\"AP9\"}", b"\x81\xa4$bin\xa3AP9".to_vec()),
        ("{\"$bin\":\"__==\"}", b"\x81\xa4$bin\xa4__==".to_vec()),
        ("{\"$bin\":1}", b"\x81\xa4$bin\x01".to_vec()),
        (
            "{\"$bin\":\"\",\"x\":1}",
            b"\x82\xa4$bin\xa0\xa1x\x01".to_vec(),
        ),
        ("{\"bin\":\"\"}", b"\x81\xa3bin\xa0".to_vec()),
    ] {
        assert_eq!(msgpack(text), bytes, "{text}");
    }
}

#[test]
fn messagepack_that_can_be_written_in_other_ways() {
    for (bytes, text) in [
        (&b"\xcf\0\0\0\0\0\0\0\x01"[..], "1"),
        (b"\xd3\0\0\0\0\0\0\0\x01", "1"),
        (b"\xd3\xff\xff\xff\xff\xff\xff\xff\xff", "-1"),
        (b"\xca\x3f\x80\0\0", "1.0"),
        // The number that it is, to the last digit.
        (b"\xca\x3d\xcc\xcc\xcd", "0.10000000149011612"),
        (b"\xdb\0\0\0\x01a", "\"a\""),
        (b"\xc6\0\0\0\x01a", "{\"$bin\":\"YQ==\"}"),
        (b"\xdd\0\0\0\x01\xdf\0\0\0\0", "[{}]"),
        // What nobody can have sent.
        (b"", "null"),
        (b"\xc1", "null"),
        (b"\x91", "null"),
        (b"\xd4\x05a", "null"),
        (b"\x81\x01\x02", "null"),
        (b"\x01\x01", "null"),
        (b"\xcb\x7f\xf8\0\0\0\0\0\0", "null"),
    ] {
        assert_eq!(json(bytes), text);
    }
}

/// A seeded sequence (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }

    fn string(&mut self) -> String {
        let mut one = || match self.below(4) {
            0 => char::from(self.below(128) as u8),
            1 => "\"\\/\u{0}\u{1f}\u{7f}é弾😀\u{fffd}"
                .chars()
                .nth(self.below(10) as usize)
                .unwrap_or('x'),
            _ => char::from(b'a' + self.below(26) as u8),
        };
        (0..one() as usize % 40).map(|_| one()).collect()
    }

    fn value(&mut self, depth: u32) -> Value {
        match self.below(if depth == 0 { 7 } else { 10 }) {
            0 => Value::Null,
            1 => (self.below(2) == 0).into(),
            2 => (u64::MAX >> self.below(64)).into(),
            3 => (i64::MIN >> self.below(64)).into(),
            4 => self.below(300).into(),
            5 => {
                let n = f64::from_bits(self.below(u64::MAX));
                if n.is_finite() { n.into() } else { Value::Null }
            }
            6 => self.string().into(),
            7 | 8 => (0..self.below(20)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let fields = (0..self.below(20)).map(|_| (self.string(), self.value(depth - 1)));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }
}

#[test]
fn random_values_come_back() {
    let mut random = Random(7);
    let mut large = 0;
    for _ in 0..4_000 {
        let value = random.value(4);
        let text = value.to_string();
        let bytes = msgpack(&text);
        // What another's library reads, and what ours makes of it again.
        let read = Value::deserialize(&mut rmp_serde::Deserializer::new(bytes.as_slice()));
        assert!(read.unwrap() == value, "{text}");
        let back = json(&bytes);
        assert!(msgpack(&back) == bytes, "{back}");
        // What another's library writes is not written otherwise by ours.
        assert!(rmp_serde::to_vec(&value).unwrap() == bytes, "{text}");
        large += usize::from(bytes.len() > 1000);
    }
    assert!(large > 100, "the values are not all small");
}

/// What is no value at all does no harm, in either direction.
#[test]
fn nonsense_is_survived() {
    let mut random = Random(11);
    for _ in 0..20_000 {
        let len = random.below(60) as usize;
        let alphabet = b"[]{},:\"\\u$bin0d8-+.eE tfn\xff";
        let text: Vec<u8> = (0..len)
            .map(|_| alphabet[random.below(26) as usize])
            .collect();
        let mut bytes = Vec::new();
        to_msgpack(&text, &mut bytes);
        assert!(bytes.len() <= 10 * len, "{}", text.escape_ascii());
        let noise: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
        serde_json::from_str::<Value>(&json(&noise)).unwrap();
    }
}
