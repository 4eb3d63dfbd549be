//! Bytes per second through the meter alone, on one CPU: event streams of deltas, beside copying the same bytes and beside parsing
//! each event.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use egress_userspace::meter::{Ask, Dialect, ResponseHead, ResponseMeter};

/// Bytes of one stream: more than fits the caches of one core.
const STREAM_BYTES: usize = 16 << 20;
/// Bytes that arrive together: a TLS record.
const PIECE_BYTES: usize = 16 << 10;

/// A dialect, what a stream of it begins with, and a delta, as its provider spells them.
const STREAMS: [(&str, Dialect, &str, &str); 3] = [
    (
        "anthropic",
        Dialect::AnthropicMessages,
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_01XQRA3bs4SB4yTBMwD3dbUi\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-test-1\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" concise summaries of the three\"}           }\n\n",
    ),
    (
        "openai_chat",
        Dialect::OpenAiChat,
        "data: {\"id\":\"chatcmpl-CM9n9OhFOl4lSSFwarLEIMnPrNWSP\",\"object\":\"chat.completion.chunk\",\"created\":1759396891,\"model\":\"gpt-test-1\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null,\"obfuscation\":\"rJ\"}\n\n",
        "data: {\"id\":\"chatcmpl-CM9n9OhFOl4lSSFwarLEIMnPrNWSP\",\"object\":\"chat.completion.chunk\",\"created\":1759396891,\"model\":\"gpt-test-1\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" concise\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null,\"obfuscation\":\"k3xV\"}\n\n",
    ),
    (
        "openai_responses",
        Dialect::OpenAiResponses,
        "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_05500b38c2cd9bfc\",\"object\":\"response\",\"status\":\"in_progress\",\"model\":\"gpt-test-1\",\"usage\":null}}\n\n",
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":17,\"item_id\":\"msg_05500b38c2cd9bfc00691c7c9d222481a3b595421266dab424\",\"output_index\":1,\"content_index\":0,\"delta\":\" concise\",\"logprobs\":[],\"obfuscation\":\"Zk3xVq0t\"}\n\n",
    ),
];

fn meter(criterion: &mut Criterion) {
    for (name, dialect, start, delta) in STREAMS {
        let stream = [start, &delta.repeat(STREAM_BYTES / delta.len())].concat().into_bytes();
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(stream.len() as u64)).sample_size(20);
        let mut copy = vec![0; PIECE_BYTES];
        group.bench_function("copied", |bencher| {
            bencher.iter(|| {
                for piece in stream.chunks(PIECE_BYTES) {
                    if let Some(copy) = copy.get_mut(..piece.len()) {
                        copy.copy_from_slice(black_box(piece));
                    }
                    black_box(&copy);
                }
            });
        });
        group.bench_function("metered", |bencher| {
            let head = ResponseHead { status: 200, content_type: Some("text/event-stream"), ..ResponseHead::default() };
            bencher.iter(|| {
                let mut meter = ResponseMeter::new(&Ask::unseen(dialect), &head);
                for piece in stream.chunks(PIECE_BYTES) {
                    meter.push(black_box(piece));
                }
                meter.reading()
            });
        });
        let texts: Vec<&[u8]> =
            stream.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data: ")).collect();
        group.bench_function("each event parsed", |bencher| {
            bencher.iter(|| {
                for text in &texts {
                    black_box(serde_json::from_slice::<serde_json::Value>(black_box(text)).is_ok());
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, meter);
criterion_main!(benches);
