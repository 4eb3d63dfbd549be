//! What of a request is billed, and how much that is.

use proptest::prelude::*;

use super::*;

fn read(json: &str, pieces: usize) -> Content {
    let mut content = Content::default();
    json.as_bytes().chunks(pieces).for_each(|piece| content.push(piece));
    content.finish();
    content
}

fn check_in(json: &str, text: &str, counts: [u64; 4]) {
    for pieces in [usize::MAX, 1000, 7, 1] {
        let found = read(json, pieces);
        assert_eq!(found.text.kept(), text, "{json} in pieces of {pieces}");
        let counted = [found.messages, found.schema_words, found.images, found.media_tokens];
        assert_eq!(counted, counts, "{json} in pieces of {pieces}");
    }
}

fn check(json: &str, text: &str) {
    check_in(json, text, [0; 4]);
}

#[test]
fn words_are_billed_and_what_stands_around_them_is_not() {
    let message = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"Good morning"},{"content" : [{"type":"text","text":"Hi"}], "role": "assistant"}],"system":"Be brief."}"#;
    check_in(message, "Good morning\nHi\nBe brief.\n", [2, 0, 0, 0]);
    let call = r#"{"messages":[{"content":[{"type":"tool_use","id":"toolu_1","name":"edit","input":{"file path":"a.rs","line":12,"all":true}}]}]}"#;
    check(call, "edit\n\"file path\":a.rs\n\"line\":12,\"all\":true,");
    check(r#"{"input":[101,7592,-102]}"#, "101,7592,-102,");
}

#[test]
fn words_are_read_as_they_are_meant() {
    check(r#"{"system":"a\n\"b\"\t\\ \/ \u00e9\ud83d\ude00"}"#, "a\n\"b\"\t\\ / é😀\n");
    check(r#"{"system":"\ud83d lonely, \u12 short \u"}"#, " lonely,  short \n");
    let long = "word ".repeat(50);
    check(&format!("{{\"system\":\"{long}\"}}"), &format!("{long}\n"));
}

#[test]
fn tools_are_text_but_for_the_words_of_schemas() {
    let tools = r#"{"tools":[{"name":"f","description":"Does.","input_schema":{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}}],"messages":[{"role":"user"}]}"#;
    let found = read(tools, 5);
    assert!(found.has_tools);
    check_in(tools, "f\nDoes.\n\"path\":path\n", [1, 7, 0, 0]);
    assert!(!read(r#"{"tools":[],"messages":[{"name":"x"}]}"#, 5).has_tools);
}

#[test]
fn files_are_no_text() {
    let file = |beginning: &str, bytes: usize| format!("{beginning}{}", "Ab+/".repeat(bytes / 4));
    let source = |data: &str| format!(r#"{{"messages":[{{"source":{{"type":"base64","data":"{data}"}}}}]}}"#);
    check_in(&source(&file("iVBORw0KGgo", 9000)), "", [0, 0, 1, 0]);
    check_in(&source(&file("JVBERi0x", 9000)), "", [0, 0, 0, 1802]);
    check_in(&source(&file("AAAAHGZ0eXBp", 1280)), "", [0, 0, 0, 11]);
    check_in(&source("short"), "short\n", [0; 4]);
    let url = |url: &str| format!(r#"{{"messages":[{{"image_url":{{"url":"{url}"}}}}]}}"#);
    check_in(&url(&file("data:image/png;base64,", 400)), "", [0, 0, 1, 0]);
    check_in(&url("https://example.com/a.png"), "", [0, 0, 1, 0]);
    let sealed = format!(r#"{{"messages":[{{"signature":"{}"}}]}}"#, file("", 4000));
    check_in(&sealed, "", [0, 0, 0, 1000]);
    // Broken into lines, and with slashes escaped.
    let lines = file("JVBERi0x", 60).repeat(60).replace('/', "\\/") + "\\r\\n";
    assert_eq!(read(&source(&lines), 100).media_tokens, 817);
}

#[test]
fn what_only_looks_like_a_file_is_text() {
    let word = "x".repeat(5000);
    check(&format!(r#"{{"system":"{word}"}}"#), &format!("{word}\n"));
    let chinese = "港".repeat(1000);
    check(&format!(r#"{{"a":{{"note":"{chinese}"}}}}"#), &format!("\"note\":{chinese}\n"));
    let call = r#"{"messages":[{"input":{"query":"q","url":"https://example.com/a.png"}}]}"#;
    check(call, "\"query\":q\nhttps://example.com/a.png\n");
    // A parameter of an agent's that nobody knows may hold a file.
    let data = "QUJD".repeat(1000);
    check_in(&format!(r#"{{"a":{{"blob":"{data}"}}}}"#), "\"blob\":", [0, 0, 0, 800]);
}

/// Pieces of JSON in any order, and what may stand in it.
fn broken_json() -> impl Strategy<Value = String> {
    let long = ["QUJD".repeat(600), "x y ".repeat(30), "iVBORw0KGgo".repeat(40)];
    let pieces =
        ["{", "}", "[", "]", ":", ",", "\"", "\\", "\\u00", "e9", "\\ud83d", "\\ude00", " ", "12", "é", "text"];
    let keys = ["\"role\":", "\"data\":\"", "\"tools\":[", "\"type\":\"", "\"url\":\"https://", "\"signature\":\""];
    let all: Vec<String> = long.into_iter().chain(pieces.into_iter().chain(keys).map(str::to_owned)).collect();
    proptest::collection::vec(proptest::sample::select(all), 0..60).prop_map(|pieces| format!("{{{}", pieces.concat()))
}

proptest! {
    #[test]
    fn any_split_reads_the_same(json in broken_json(), sizes in proptest::collection::vec(1..200_usize, 1..20)) {
        let whole = read(&json, usize::MAX);
        let mut split = Content::default();
        let mut rest = json.as_bytes();
        for size in sizes.into_iter().cycle() {
            let (piece, after) = rest.split_at(size.min(rest.len()));
            split.push(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        split.finish();
        prop_assert_eq!(whole.text.kept(), split.text.kept());
        let counts = |content: &Content| (content.messages, content.schema_words, content.images, content.media_tokens);
        prop_assert_eq!(counts(&whole), counts(&split));
    }
}

#[test]
fn an_end_anywhere_counts_what_was_there() {
    check(r#"{"system":"half a sen"#, "half a sen\n");
    check(r#"{"messages":[{"content":"Hi"#, "Hi\n");
    check(r#"{"messages":[{"content":"Hi""#, "Hi\n");
    check(r#"{"system":"all"} trailing"#, "all\n");
    let cut = format!(r#"{{"messages":[{{"data":"iVBORw0KGgo{}"#, "A".repeat(3000));
    check_in(&cut, "", [0, 0, 1, 0]);
    assert!(!read("no JSON", 3).is_json() && read("[1]", 3).is_json());
}

fn check_input(family: Family, body: &str, unseen_bytes: u64, expected: u64) {
    let mut input = Input::default();
    input.push(body.as_bytes());
    assert_eq!(input.tokens(family, unseen_bytes), Tokens(expected), "{family:?} {unseen_bytes} {}", body.len());
}

#[test]
fn words_messages_tools_and_files_add_up() {
    check_input(Family::OpenAi, "", 0, 0);
    check_input(Family::OpenAi, "{}", 0, 4);
    let asked = r#"{"messages":[{"role":"user","content":"What is the capital of France?"}]}"#;
    // The provider said 14.
    check_input(Family::OpenAi, asked, 0, 4 + 6 + 7);
    check_input(Family::Claude, asked, 0, 6 + 6 + 14);
    let tool = r#"{"tools":[{"name":"now","input_schema":{}}]}"#;
    check_input(Family::OpenAi, tool, 0, 4 + 100 + 2 + 2);
    let picture = r#"{"messages":[{"role":"user","content":[{"image_url":{"url":"https://a.example/b.png"}}]}]}"#;
    check_input(Family::OpenAi, picture, 0, 4 + 6 + 2_000);
    check_input(Family::Claude, picture, 0, 6 + 6 + 5_000);
}

#[test]
fn what_was_not_seen_is_as_dense_as_what_was() {
    let words = format!(r#"{{"system":"{}"}}"#, "word ".repeat(1000));
    let seen = 4 + 1001;
    check_input(Family::OpenAi, &words, 0, seen);
    check_input(Family::OpenAi, &words, 10 * words.len() as u64, 11 * seen);
    check_input(Family::OpenAi, &words, u64::MAX, seen + UNSEEN_INPUT_TOKENS_MAX);
    let endless = format!(r#"{{"system":"{}"}}"#, "word ".repeat(2_000_000));
    check_input(Family::OpenAi, &endless, 0, INPUT_TOKENS_MAX);
}

#[test]
fn what_cannot_be_read_counts_by_its_bytes() {
    check_input(Family::Claude, &"\u{1}".repeat(3000), 0, 1000);
    check_input(Family::Claude, "no JSON", 7, 3 + 3);
}
