//! What holds for any bytes in any pieces.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

/// How a value may be written.
#[derive(Clone, Copy, Debug)]
enum Written {
    Plain,
    Json,
    JsonUnicode,
    JsonTwice,
    JsonUnicodeInJson,
    JsonUnicodeTwice,
    Base64(usize),
    Base64Url(usize),
    Base64InJson(usize),
    Base64InJsonTwice(usize),
    Lines(usize),
}

fn written() -> impl Strategy<Value = Written> {
    prop_oneof![
        Just(Written::Plain),
        Just(Written::Json),
        Just(Written::JsonUnicode),
        Just(Written::JsonTwice),
        Just(Written::JsonUnicodeInJson),
        Just(Written::JsonUnicodeTwice),
        (0..3_usize).prop_map(Written::Base64),
        (0..3_usize).prop_map(Written::Base64Url),
        (0..3_usize).prop_map(Written::Base64InJson),
        (0..3_usize).prop_map(Written::Base64InJsonTwice),
        (0..3_usize).prop_map(Written::Lines),
    ]
}

fn write(written: Written, value: &str) -> String {
    let json = |value: &str| serde_json::to_string(value).unwrap();
    let slashed = |value: &str| json(value).replace('/', "\\/");
    let behind = |front: usize| format!("{} {value} and more", "xyz".get(..front).unwrap());
    match written {
        Written::Plain => format!(" {value} "),
        Written::Json => json(&format!("a\n{value}\n")),
        Written::JsonUnicode => format!("\"{}\"", unicode(value)),
        Written::JsonTwice => json(&json(&format!("a\n{value}\n"))),
        Written::JsonUnicodeInJson => json(&format!("\"{}\"", unicode(value))),
        Written::JsonUnicodeTwice => format!("\"{}\"", unicode(&unicode(value))),
        Written::Base64(front) => format!("'{}'", STANDARD.encode(behind(front))),
        Written::Base64Url(front) => format!("={}", URL_SAFE_NO_PAD.encode(behind(front))),
        Written::Base64InJson(front) => slashed(&STANDARD.encode(behind(front))),
        Written::Base64InJsonTwice(front) => slashed(&slashed(&STANDARD.encode(behind(front)))),
        Written::Lines(front) => {
            let data = STANDARD.encode(behind(front));
            data.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line) + "\n").collect()
        }
    }
}

/// All that can be read in bytes: as they are, with escapes undone once and twice, and each run of base64 in these decoded,
/// wherever it begins.
fn readings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let unescaped = |bytes: &[u8]| {
        let (mut unescape, mut into) = (unescape::Unescape::new(unescape::Writing::Json), Vec::new());
        unescape.push(bytes, &mut into);
        unescape.finish(&mut into);
        into
    };
    let once = unescaped(bytes);
    let twice = unescaped(&once);
    let decoded: Vec<Vec<u8>> = [&once, &twice].into_iter().flat_map(|text| decoded(text)).collect();
    [bytes.to_vec(), once, twice].into_iter().chain(decoded).collect()
}

fn decoded(text: &[u8]) -> Vec<Vec<u8>> {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    let joined: Vec<u8> = text.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
    let mut all = Vec::new();
    for run in joined.split(|byte| !is_letter(byte)) {
        let run: Vec<u8> = run
            .iter()
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                byte => *byte,
            })
            .collect();
        for offset in 0..run.len().min(4) {
            let groups = &run[offset..];
            let whole = groups.len() / 4 * 4;
            all.extend(STANDARD.decode(&groups[..whole]));
        }
    }
    all
}

fn contains(bytes: &[u8], value: &[u8]) -> bool {
    readings(bytes).iter().any(|reading| memchr::memmem::find(reading, value).is_some())
}

fn chunks(text: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| text[ends[0]..ends[1]].to_vec()).collect()
}

fn noise() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~\n]{0,60}",
        Just(r"\n\u00".to_owned()),
        Just("aGVsbG8gd29ybGQgdGhpcyBpcyBmaW5lLCByZWFsbHk=".to_owned()),
        Just("token = \"abc\" 4111 1111 eyJhbGciOiJ ghp_ -----BEGIN ".to_owned()),
        "[A-Za-z0-9+/]{18,90}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Whatever is found in one piece is found in any pieces, and nothing of it has passed by then.
    #[test]
    fn what_is_found_depends_on_the_bytes_alone(
        parts in prop::collection::vec((noise(), 0..17_usize, written()), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        form in any::<bool>(),
    ) {
        let samples = samples();
        let text: String = parts.iter().map(|(noise, sample, how)| format!("{noise}{}", write(*how, &samples[*sample].1))).collect();
        let layers = if form { Layers::Form } else { Layers::Body };
        let set = detectors();
        let sorted = |found: &[Finding]| {
            let mut all: Vec<_> = found.iter().map(|finding| (finding.range().start, finding.range().end, finding.detector)).collect();
            all.sort_unstable();
            all
        };
        let whole = Scan::all(&set, layers, text.as_bytes());
        let mut redactor = Redactor::new(&set, layers);
        let (mut found, mut passed) = (Vec::new(), Vec::new());
        for chunk in chunks(text.as_bytes(), &cuts) {
            let passing = redactor.push(&chunk);
            for finding in &passing.found {
                prop_assert!(finding.range().start >= passed.len(), "{:?} of {} passed", finding, passed.len());
            }
            passed.extend(passing.bytes);
            found.extend(passing.found);
        }
        let rest = redactor.finish();
        passed.extend(rest.bytes);
        found.extend(rest.found);
        let (whole, pieces) = (sorted(&whole), sorted(&found));
        for finding in &whole {
            prop_assert!(pieces.contains(finding), "{finding:?} of {whole:?} in {pieces:?}: {text}");
        }
        prop_assert_eq!(passed.len(), text.len());
        prop_assert_eq!(passed, redacted(layers, &[text.as_bytes()]));
    }

    /// No reading of what is left contains a secret, however it was written and in whatever pieces it came.
    #[test]
    fn nothing_that_is_left_contains_the_secret(
        front in noise(),
        back in noise(),
        sample in 0..17_usize,
        how in written(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let value = &samples()[sample].1;
        let text = format!("{front}{}{back}", write(how, value));
        // An open escape in front may swallow letters.
        prop_assume!(contains(text.as_bytes(), value.as_bytes()));
        let pieces = chunks(text.as_bytes(), &cuts);
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let left = redacted(Layers::Body, &pieces);
        prop_assert_eq!(left.len(), text.len());
        prop_assert!(!contains(&left, value.as_bytes()), "{} is left of {}", String::from_utf8_lossy(&left), text);
    }

    /// A secret whose value is known is found between any bytes.
    #[test]
    fn an_exact_secret_needs_no_boundaries(front in ".{0,20}", back in ".{0,20}", base64 in any::<bool>()) {
        let text = if base64 { STANDARD.encode(format!("{front}{SECRET}{back}")) } else { format!("{front}{SECRET}{back}") };
        let left = redacted(Layers::Body, &[text.as_bytes()]);
        prop_assert!(!contains(&left, SECRET.as_bytes()), "{}", text);
    }

    /// Any bytes at all: nothing panics, and what has no finding passes as it is.
    #[test]
    fn any_bytes_pass(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for (_, target) in fuzz::TARGETS {
            target(&bytes);
        }
    }
}

#[test]
fn what_fuzzing_began_with_and_found_holds() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for (name, target) in fuzz::TARGETS {
        let inputs: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(inputs.len() >= 5, "{name} has {} inputs", inputs.len());
        for input in inputs {
            target(&std::fs::read(&input).unwrap());
        }
    }
}
