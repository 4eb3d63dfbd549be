//! What single providers and models do in their own way: one small response each.

use super::dialects::frame;
use super::*;
use crate::meter::HeaderCounts;

/// A response, and what it settles to: input, cache write, cache read, output.
fn check(dialect: Dialect, body: &[u8], expected: [u64; 4], known: Known) {
    let ask = Ask { dialect: Some(dialect), ..request() };
    for piece_bytes in [1, usize::MAX] {
        let found = meter(&ask, &head(None), body.chunks(piece_bytes), Ending::Complete);
        let text = String::from_utf8_lossy(body);
        assert_eq!((found.usage, found.known), (usage(expected), known), "{text} in pieces of {piece_bytes}");
        assert!(!found.failed, "{text}");
    }
}

fn events(data: &[&str]) -> Vec<u8> {
    data.iter().flat_map(|data| format!("data: {data}\n\n").into_bytes()).collect()
}

fn chunks(events: &[&str]) -> Vec<u8> {
    events.iter().flat_map(|event| frame(&format!("chunk {event}"))).collect()
}

#[test]
fn perplexity_counts_on_every_chunk() {
    let chunk = |text: &str, finish: &str, output: u64| {
        format!(
            r#"{{"id":"1","model":"m","object":"chat.completion.chunk","choices":[{{"index":0,"finish_reason":{finish},"delta":{{"content":"{text}"}}}}],"usage":{{"prompt_tokens":9,"completion_tokens":{output},"total_tokens":{},"search_context_size":"low"}}}}"#,
            9 + output
        )
    };
    let stream = [chunk("One", "null", 1), chunk(" two", "null", 2), chunk("", "\"stop\"", 2)];
    let stream = stream.each_ref().map(String::as_str);
    check(Dialect::OpenAiChat, &events(&stream), [9, 0, 0, 2], Known::Reported);
    // Broken off after a word that no count covers yet.
    let uncounted =
        r#"{"id":"1","model":"m","choices":[{"index":0,"finish_reason":null,"delta":{"content":"12345678"}}]}"#;
    check(Dialect::OpenAiChat, &events(&[stream[0], uncounted]), [9, 0, 0, 5], Known::Partial);
}

#[test]
fn copilot_tells_cache_writes_beside_the_usage() {
    let usage = r#""usage":{"prompt_tokens":1000,"completion_tokens":50,"total_tokens":1050,"prompt_tokens_details":{"cached_tokens":600}}"#;
    let split = r#""copilot_usage":{"token_details":[{"token_type":"input","token_count":100},{"token_type":"cache_read","token_count":600},{"token_type":"cache_write","token_count":300},{"token_type":"output","token_count":50}],"total_nano_aiu":7}"#;
    let expected = [100, 300, 600, 50];
    for (first, second) in [(usage, split), (split, usage)] {
        let body = format!(r#"{{"id":"1","choices":[],{first},{second}}}"#);
        check(Dialect::OpenAiChat, body.as_bytes(), expected, Known::Reported);
        check(Dialect::OpenAiChat, &events(&[&body, "[DONE]"]), expected, Known::Reported);
    }
    let unknown =
        format!(r#"{{{usage},"copilot_usage":{{"token_details":[{{"token_type":"new","token_count":1}}]}}}}"#);
    check(Dialect::OpenAiChat, unknown.as_bytes(), [400, 0, 600, 50], Known::Reported);
}

#[test]
fn cohere_counts_at_the_end_of_a_message_and_bills_by_other_rules() {
    let usage = r#""usage":{"billed_units":{"input_tokens":5,"output_tokens":7},"tokens":{"input_tokens":507,"output_tokens":12},"cached_tokens":432}"#;
    let end = format!(r#"{{"type":"message-end","delta":{{"finish_reason":"COMPLETE",{usage}}}}}"#);
    let stream = [
        r#"{"id":"1","type":"message-start","delta":{"message":{"role":"assistant","content":[]}}}"#,
        r#"{"type":"content-start","index":0,"delta":{"message":{"content":{"type":"text","text":""}}}}"#,
        r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"LLMs"}}}}"#,
        r#"{"type":"content-end","index":0}"#,
        &end,
        "[DONE]",
    ];
    check(Dialect::OpenAiChat, &events(&stream), [75, 0, 432, 12], Known::Reported);
    check(Dialect::OpenAiChat, &events(&stream[..4]), [500, 0, 0, 2], Known::Estimated);
    let body = format!(
        r#"{{"id":"1","message":{{"role":"assistant","content":[{{"text":"a"}}]}},"finish_reason":"COMPLETE",{usage}}}"#
    );
    check(Dialect::OpenAiChat, body.as_bytes(), [75, 0, 432, 12], Known::Reported);
}

#[test]
fn others_tell_what_was_cached_elsewhere() {
    let counts = r#""prompt_tokens":30,"completion_tokens":4,"total_tokens":34"#;
    let choice = |usage: &str| {
        let choice = format!(r#"{{"index":0,"delta":{{}},"finish_reason":"stop","usage":{{{usage}}}}}"#);
        events(&[&format!(r#"{{"id":"1","model":"m","choices":[{choice}]}}"#), "[DONE]"])
    };
    let moonshot = format!(r#"{counts},"cached_tokens":10"#);
    check(Dialect::OpenAiChat, &choice(&moonshot), [20, 0, 10, 4], Known::Reported);
    let deepseek = format!(r#"{counts},"prompt_cache_hit_tokens":10,"prompt_cache_miss_tokens":20"#);
    for details in ["", r#","prompt_tokens_details":null"#, r#","prompt_tokens_details":{"cached_tokens":10}"#] {
        let body = format!(r#"{{"choices":[],"usage":{{{deepseek}{details}}}}}"#);
        check(Dialect::OpenAiChat, body.as_bytes(), [20, 0, 10, 4], Known::Reported);
        check(Dialect::OpenAiChat, &events(&[&body, "[DONE]"]), [20, 0, 10, 4], Known::Reported);
    }
    let azure = format!(r#"{{"usage":{{{counts},"prompt_tokens_details":null,"reasoning_tokens":0}}}}"#);
    check(Dialect::OpenAiChat, azure.as_bytes(), [30, 0, 0, 4], Known::Reported);
}

#[test]
fn bedrock_passes_on_what_each_makers_model_says() {
    let metrics = r#""amazon-bedrock-invocationMetrics":{"inputTokenCount":6,"outputTokenCount":9}"#;
    for (delta, end) in [
        (r#"{"generation":"Hello","prompt_token_count":6}"#, r#"{"generation":"","stop_reason":"stop","#),
        (r#"{"outputs":[{"text":"Hello","stop_reason":null}]}"#, r#"{"outputs":[{"text":"","stop_reason":"stop"}],"#),
        (r#"{"event_type":"text-generation","text":"Hello"}"#, r#"{"event_type":"stream-end","#),
        (r#"{"choices":[{"delta":{"content":"Hello"}}]}"#, r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"#),
    ] {
        check(Dialect::Bedrock, &chunks(&[delta, &format!("{end}{metrics}}}")]), [6, 0, 0, 9], Known::Reported);
        check(Dialect::Bedrock, &chunks(&[delta]), [500, 0, 0, 3], Known::Estimated);
    }
    let llama = br#"{"generation":"Hello","prompt_token_count":6,"generation_token_count":9,"stop_reason":"stop"}"#;
    check(Dialect::Bedrock, llama, [6, 0, 0, 9], Known::Reported);
    let chat = br#"{"choices":[{"message":{"content":"Hello"}}],"usage":{"prompt_tokens":6,"completion_tokens":9,"total_tokens":15}}"#;
    check(Dialect::Bedrock, chat, [6, 0, 0, 9], Known::Reported);
}

#[test]
fn bedrock_counts_in_headers_what_no_body_tells() {
    let check = |headers: &[(&str, &str)], body: &str, ending, expected, known| {
        let counts = HeaderCounts::read(|name| headers.iter().find(|header| header.0 == name).map(|header| header.1));
        let ask = Ask { dialect: Some(Dialect::Bedrock), ..request() };
        let head = ResponseHead { counts, content_type: Some("application/json"), ..head(None) };
        let found = meter(&ask, &head, body.as_bytes().chunks(1), ending);
        assert_eq!((found.usage, found.known), (usage(expected), known), "{headers:?} {body}");
        assert_eq!((found.has_report, found.is_final), (known != Known::Estimated, false), "{headers:?} {body}");
    };
    let [input, output] = [("x-amzn-bedrock-input-token-count", "12"), ("x-amzn-bedrock-output-token-count", "34")];
    let [write, read] = ["x-amzn-bedrock-cache-write-input-token-count", "x-amzn-bedrock-cache-read-input-token-count"];
    let body = r#"{"generations":[{"text":"Hello"}]}"#;
    check(&[input, output], body, Ending::Complete, [12, 0, 0, 34], Known::Reported);
    check(&[input, output, (write, "5"), (read, " 7 ")], body, Ending::Complete, [12, 5, 7, 34], Known::Reported);
    check(&[input, output], &body[..9], Ending::Cancelled, [12, 0, 0, 34], Known::Reported);
    check(&[input], body, Ending::Complete, [12, 0, 0, 17], Known::Partial);
    for useless in ["", "-1", "1e3", "99999999999999999999"] {
        check(&[(input.0, useless)], body, Ending::Complete, [500, 0, 0, 17], Known::Estimated);
    }
}

#[test]
fn a_body_that_counts_outranks_the_headers() {
    let counts = HeaderCounts::read(|name| name.ends_with("token-count").then_some("999"));
    let ask = Ask { dialect: Some(Dialect::Bedrock), ..request() };
    let head = ResponseHead { counts, ..head(None) };
    for body in [include_str!("../testdata/converse.json"), include_str!("../testdata/invoke-titan.json")] {
        let found = meter(&ask, &head, [body], Ending::Complete);
        let alone = meter(&ask, &super::head(None), [body], Ending::Complete);
        assert_eq!(found, alone, "{body}");
    }
}

#[test]
fn some_servers_have_other_words_for_an_error() {
    for (dialect, body) in [
        (Dialect::OpenAiChat, &br#"{"object":"error","message":"no","code":400}"#[..]),
        (Dialect::OpenAiChat, b"data: {\"object\":\"error\",\"message\":\"no\"}\n\n"),
        (Dialect::OpenAiChat, b"data: {\"type\":\"error\",\"message\":\"no\"}\n\n"),
        (Dialect::Ollama, b"{\"error\":\"no such model\"}\n"),
        (Dialect::Bedrock, br#"{"message":"Too many requests"}"#),
    ] {
        let ask = Ask { dialect: Some(dialect), ..request() };
        let found = meter(&ask, &head(None), [body], Ending::Complete);
        assert_eq!((found.failed, found.usage), (true, Usage::default()), "{}", String::from_utf8_lossy(body));
    }
}
