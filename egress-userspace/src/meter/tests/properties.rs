//! Laws: no way of cutting, splitting or damaging the bytes changes more than it may.

use proptest::prelude::*;

use super::wire::{ENCODINGS, encoded};
use super::*;

pub(super) fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn line_ends(body: &str, line_end: &str) -> String {
    if body.trim_start().starts_with('{') { body.to_owned() } else { body.replace('\n', line_end) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_in_any_encoding_gives_the_same_reading(
        case in 0..CASES.len(),
        encodings in prop::sample::select(ENCODINGS.to_vec()),
        line_end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let case = &CASES[case];
        let (header, bytes) = encoded(encodings, line_ends(case.body, line_end).as_bytes());
        let found = meter(&request(), &head(Some(&header)), pieces(&bytes, &cuts), Ending::Complete);
        prop_assert_eq!((found.usage, found.known), (usage(case.expected), case.known), "{}", case.name);
    }

    #[test]
    fn a_cut_body_reads_the_same_however_it_was_split(
        case in 0..CASES.len(),
        end in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let body = CASES[case].body.as_bytes();
        let cut = &body[..end.index(body.len() + 1)];
        let whole = meter(&request(), &head(None), [cut], Ending::Cancelled);
        prop_assert_eq!(meter(&request(), &head(None), pieces(cut, &cuts), Ending::Cancelled), whole);
    }

    #[test]
    fn damaged_bytes_never_panic_and_stay_within_bounds(
        case in 0..CASES.len(),
        encodings in prop::sample::select(ENCODINGS.to_vec()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let (header, mut bytes) = encoded(encodings, CASES[case].body.as_bytes());
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        meter(&request(), &head(Some(&header)), pieces(&bytes, &cuts), Ending::Complete);
    }

    #[test]
    fn any_request_prefix_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), whole in any::<Option<u64>>()) {
        let ask = crate::meter::ask(Api::Anthropic, "POST", "/v1/messages", &bytes, whole);
        prop_assert!(ask.input_estimate <= Tokens(1_000_000));
    }
}
