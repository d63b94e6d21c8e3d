use protocol::pattern::Pattern;
use protocol::random::Random;
use serde_json::{Value, json};

use super::*;

fn filters(lists: &[(&str, Filtered, bool, &str)]) -> Filters {
    let settings = lists
        .iter()
        .enumerate()
        .map(|(i, (rooms, then, whole, _))| Filter {
            rooms: Pattern::new(rooms),
            then: *then,
            whole_words: *whole,
            words: Words {
                at: i as u32,
                ..Words::default()
            },
        });
    let settings: Vec<Filter> = settings.collect();
    Filters::new(&settings, |words| {
        lists[words.at as usize].3.as_bytes().to_vec()
    })
}

fn masking(words: &str) -> Filters {
    filters(&[("*", Filtered::Mask, false, words)])
}

/// What is said instead, in JSON as it stands.
fn masked(filters: &Filters, json: &str) -> String {
    match filters.judge("r", Data::json(json.as_bytes()), false) {
        Verdict::Clean => json.to_owned(),
        Verdict::Masked(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The same value through MessagePack.
fn masked_packed(filters: &Filters, json: &str) -> Value {
    let value: Value = serde_json::from_str(json).unwrap();
    let packed = rmp_serde::to_vec(&value).unwrap();
    match filters.judge("r", Data::msgpack(&packed), false) {
        Verdict::Clean => value,
        Verdict::Masked(bytes) => rmp_serde::from_slice(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn words_are_masked_wherever_they_stand() {
    let filters = masking("bad\nworse thing\n 弾 \n\nÄRGER\nad\nσοφός\n😀\n");
    for (said, expected) in [
        (r#""bad""#, r#""***""#),
        (
            r#""a bad, BAD day""#,
            r#""a ***, *** d*y""#.replace("d*y", "day").as_str(),
        ),
        (
            r#""worse  thing worse thing""#,
            r#""worse  thing ***********""#,
        ),
        (
            r#"{"bad":"bad","k":["bad",{"b":"not"}],"n":1}"#,
            r#"{"bad":"***","k":["***",{"b":"not"}],"n":1}"#,
        ),
        (
            r#" { "a" : "b\u0061d\n" , "c" : "\"bad\"" } "#,
            r#" { "a" : "***\n" , "c" : "\"***\"" } "#,
        ),
        (r#""\u5f3e幕 弾幕""#, r#""*幕 *幕""#),
        (r#""ärger ÄrGeR \u00c4rger""#, r#""***** ***** *****""#),
        (r#""ΣΟΦΌΣ σοφός σοφόσ""#, r#""***** ***** *****""#),
        (r#""\ud83d\ude00 😀 \ud83d""#, r#""* * \ud83d""#),
        (r#""mad""#, r#""m**""#),
        (r#""\\bad\\u0062ad""#, r#""\\***\\u0062**""#),
        (r#"{"$bin":"bad="}"#, r#"{"$bin":"bad="}"#),
        (r#"[1,true,null,"","x"]"#, r#"[1,true,null,"","x"]"#),
    ] {
        assert_eq!(masked(&filters, said), expected, "{said}");
        if !said.contains("bin") && !said.contains(r#"\ud83d""#) {
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(masked_packed(&filters, said), expected, "{said}");
        }
    }
}

#[test]
fn whole_words_stand_alone() {
    let filters = filters(&[("*", Filtered::Mask, true, "ass\nass hole\n猫")]);
    for (said, expected) in [
        ("class ass assess", "class *** assess"),
        ("ass,ass ASS!", "***,*** ***!"),
        ("an ass holes", "an *** holes"),
        ("an ass hole", "an ********"),
        ("ass1 1ass üass", "ass1 1ass üass"),
        ("猫 黒猫", "* 黒猫"),
    ] {
        assert_eq!(
            masked(&filters, &json!(said).to_string()),
            json!(expected).to_string()
        );
    }
}

#[test]
fn overlapping_words_are_masked_together() {
    let filters = masking("abcd\nbc\ncdef\nxy");
    assert_eq!(
        masked(&filters, r#""zabcdefz xabcdx bcbcxy""#),
        r#""z******z x****x ******""#
    );
}

#[test]
fn the_first_list_that_decides_does() {
    let filters = filters(&[
        ("chat.*", Filtered::Mask, false, "mild"),
        ("chat.*", Filtered::Hold, false, "hmm"),
        ("*", Filtered::Reject, false, "never"),
        ("*", Filtered::Reject, false, ""),
    ]);
    let judge = |room: &str, text: &str, moderates| {
        let json = json!([text]).to_string();
        let packed = rmp_serde::to_vec(&json!([text])).unwrap();
        let verdict = filters.judge(room, Data::json(json.as_bytes()), moderates);
        let other = filters.judge(room, Data::msgpack(&packed), moderates);
        let kind = std::mem::discriminant::<Verdict>;
        assert_eq!(kind(&verdict), kind(&other));
        verdict
    };
    assert_eq!(judge("chat.a", "fine", false), Verdict::Clean);
    assert_eq!(judge("other", "hmm, mild", false), Verdict::Clean);
    assert_eq!(judge("other", "Never", true), Verdict::Rejected);
    assert_eq!(judge("chat.a", "mild hmm", false), Verdict::Held);
    assert_eq!(judge("chat.a", "hmm never", false), Verdict::Held);
    assert_eq!(judge("chat.a", "hmm never", true), Verdict::Rejected);
    let masked = Verdict::Masked(br#"["**** hmm"]"#.to_vec());
    assert_eq!(judge("chat.a", "mild hmm", true), masked);
}

/// Whatever is said and whatever the words are: what comes out is the same value but for characters of
/// strings that have become stars, in both formats alike, and nothing is left to be masked.
#[test]
fn nothing_but_characters_changes() {
    let mut random = Random::new(7);
    let mut random = |n: usize| random.below(n as u64) as usize;
    let alphabet = [
        'a', 'B', 'ä', 'Σ', 'ς', '弾', '😀', '"', '\\', '\n', 'İ', ' ',
    ];
    let mut hits = 0;
    for _ in 0..3_000 {
        let mut text = |most: usize| -> String {
            (0..random(most))
                .map(|_| alphabet[random(alphabet.len())])
                .collect()
        };
        let words = [text(3), text(4), text(3)].join("\n");
        let value =
            json!({ "ab": text(9), "l": [text(9), { (text(2)): text(9) }, 1.5], "z": text(30) });
        let escaped: String = value.to_string();
        let filters = masking(&words);
        let out: Value = serde_json::from_str(&masked(&filters, &escaped)).unwrap();
        assert_eq!(
            out,
            masked_packed(&filters, &escaped),
            "{words:?} {escaped}"
        );
        hits += usize::from(out != value);
        assert_shape(&value, &out);
        // Stars are no words here.
        let again = masked(&filters, &out.to_string());
        assert_eq!(again, out.to_string(), "{words:?}");
    }
    assert!(hits > 500, "{hits}");
}

fn assert_shape(before: &Value, after: &Value) {
    match (before, after) {
        (Value::String(a), Value::String(b)) => {
            assert_eq!(a.chars().count(), b.chars().count());
            assert!(a.chars().zip(b.chars()).all(|(a, b)| a == b || b == '*'));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).for_each(|(a, b)| assert_shape(a, b));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()));
            a.values()
                .zip(b.values())
                .for_each(|(a, b)| assert_shape(a, b));
        }
        (a, b) => assert_eq!(a, b),
    }
}

/// How long it takes to make a list of 100,000 words, and to look for them: to be run by hand, with
/// `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_many_words_cost() {
    let mut random = Random::new(1);
    let mut words = String::new();
    for _ in 0..100_000 {
        for _ in 0..6 {
            words.push(char::from(b'a' + random.below(26) as u8));
        }
        words.push('\n');
    }
    let start = std::time::Instant::now();
    let filters = masking(&words);
    println!("made in {:?}", start.elapsed());
    let said = json!({ "text": "The quick brown fox jumps over the lazy dog, and says so. 1234567890 and so on" });
    let said = said.to_string();
    let start = std::time::Instant::now();
    for _ in 0..100_000 {
        std::hint::black_box(filters.judge("r", Data::json(said.as_bytes()), false));
    }
    println!(
        "a message of {} bytes: {:?}",
        said.len(),
        start.elapsed() / 100_000
    );
}
