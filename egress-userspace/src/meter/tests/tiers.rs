//! The class of service that a response names.

use super::*;

fn check(dialect: Dialect, content_type: &str, body: &str, expected: Option<&str>) {
    let head = ResponseHead { status: 200, content_type: Some(content_type), ..ResponseHead::default() };
    let found = meter(&Ask::unseen(dialect), &head, body.as_bytes().chunks(7), Ending::Complete);
    assert_eq!(found.service_tier.as_deref(), expected, "{body}");
}

#[test]
fn a_tier_is_read_where_each_dialect_tells_it() {
    use Dialect::{AnthropicMessages, Bedrock, Gemini, OpenAiChat, OpenAiResponses};
    let json = |dialect, body, expected| check(dialect, "application/json", body, expected);
    json(
        AnthropicMessages,
        r#"{"usage":{"input_tokens":1,"output_tokens":2,"service_tier":"priority"}}"#,
        Some("priority"),
    );
    json(OpenAiChat, r#"{"service_tier":"flex","usage":{"prompt_tokens":1,"completion_tokens":2}}"#, Some("flex"));
    json(
        OpenAiResponses,
        r#"{"service_tier":"default","usage":{"input_tokens":1,"output_tokens":2}}"#,
        Some("default"),
    );
    json(
        Bedrock,
        r#"{"usage":{"inputTokens":1,"outputTokens":2},"serviceTier":{"type":"reserved"}}"#,
        Some("reserved"),
    );
    json(Gemini, r#"{"usageMetadata":{"promptTokenCount":1,"trafficType":"ON_DEMAND"}}"#, Some("ON_DEMAND"));
    json(OpenAiChat, r#"{"service_tier":null,"usage":{"prompt_tokens":1}}"#, None);
    json(OpenAiChat, r#"{"service_tier":"two\nlines","usage":{"prompt_tokens":1}}"#, None);
    json(OpenAiChat, &format!(r#"{{"service_tier":"{}","usage":{{"prompt_tokens":1}}}}"#, "x".repeat(65)), None);
}

#[test]
fn what_was_given_outranks_what_was_asked_for() {
    let created = r#"{"type":"response.created","response":{"id":"r","service_tier":"auto","usage":null}}"#;
    let completed = r#"{"type":"response.completed","response":{"id":"r","service_tier":"default",
        "usage":{"input_tokens":1,"output_tokens":2}}}"#;
    let stream = |events: &[&str]| -> String {
        events.iter().map(|event| format!("data: {}\n\n", event.replace('\n', ""))).collect()
    };
    let sse = "text/event-stream";
    check(Dialect::OpenAiResponses, sse, &stream(&[created, completed]), Some("default"));
    check(Dialect::OpenAiResponses, sse, &stream(&[created]), Some("auto"));
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":1,"service_tier":"standard"}}}"#;
    let total = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#;
    check(Dialect::AnthropicMessages, sse, &stream(&[start, total]), Some("standard"));
    let chunk = r#"{"service_tier":"priority","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    check(Dialect::OpenAiChat, sse, &stream(&[chunk, "[DONE]"]), Some("priority"));
}
