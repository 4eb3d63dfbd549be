//! What the proxy bears, per connection, exchange and bottle. Every number that an outsider could push is here.

use std::time::Duration;

/// Connections that one bottle may hold open.
pub(super) const CONNECTIONS_PER_BOTTLE_MAX: usize = 2_048;
/// Requests of one bottle that are answered at once, whatever connections they come on; further ones wait for a turn.
pub(super) const REQUESTS_PER_BOTTLE_MAX: usize = 2_048;
/// Open files that this process asks for: as many as kernels give one.
pub(super) const FILES_WANTED: u64 = 1 << 20;
/// Those that are no bottle's: the broker, listeners, the resolver's sockets, strangers, what the runtime has.
pub(super) const FILES_OF_OUR_OWN: u64 = 512;
/// A bottle's connection, and one to a provider for it.
pub(super) const FILES_PER_CONNECTION: u64 = 2;
/// A request's or response's head, HTTP/1 and HTTP/2, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// A client has this long to send a head; an idle connection stays as long.
pub(super) const HEAD_TIME_MAX: Duration = Duration::from_secs(75);
/// From a head's first byte to its last over HTTP/1: who takes longer is answered with 400.
pub(super) const HEAD_ARRIVAL_TIME_MAX: Duration = Duration::from_secs(30);
/// A client has this long from connecting to the end of the TLS handshake, which on a busy host waits for hundreds of others.
pub(super) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(60);
/// Streams that one HTTP/2 connection of a bottle may have open.
pub(super) const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// What a peer may send on one HTTP/2 stream before it is read.
pub(super) const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// The same for a whole connection from a bottle.
pub(super) const CLIENT_WINDOW_BYTES: u32 = 1 << 20;
/// Connections of one bottle that get such windows. Those that are opened beside so many get narrow ones.
pub(super) const WIDE_CONNECTIONS_PER_BOTTLE_MAX: usize = 128;
/// A narrow window for one stream.
pub(super) const NARROW_STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// The same for a whole connection.
pub(super) const NARROW_CLIENT_WINDOW_BYTES: u32 = 128 << 10;
/// The same for a whole connection to a provider: more than all its streams together may take, so
/// that one that is not read does not hold up the others.
pub(super) const UPSTREAM_WINDOW_BYTES: u32 = 64 << 20;
/// Bytes of one HTTP/2 stream that wait to be sent.
pub(super) const STREAM_SEND_BUFFER_BYTES: usize = 64 << 10;
/// Read and write buffer of an HTTP/1 connection, in bytes.
pub(super) const CONNECTION_BUFFER_BYTES_MAX: usize = 128 << 10;

/// What is read of an HTTP/1 connection at once while heads are looked at, in bytes.
pub(super) const STRICT_READ_BYTES: usize = 16 << 10;
/// The line that says how long a chunk is, extensions included, in bytes.
pub(super) const CHUNK_LINE_BYTES_MAX: usize = 256;

/// What one bottle's requests and messages may make the proxy hold while they are looked at, in bytes: four of the longest
/// pushes, or the beginnings of 32 requests as long as any that is read before it is admitted.
pub(super) const MEMORY_PER_BOTTLE_BYTES_MAX: usize = 128 << 20;
/// The same of all bottles. One that takes all it can leaves half to others, two of them a third, and so on.
pub(super) const MEMORY_BYTES_MAX: usize = 512 << 20;
/// How much of a metered request's body is read before it is admitted.
pub(super) const BODY_PREFIX_BYTES_MAX: usize = 4 << 20;
/// A client has this long to send that prefix.
pub(super) const BODY_PREFIX_TIME_MAX: Duration = Duration::from_secs(120);
/// Longest body that is signed anew, in bytes: as much as Bedrock takes.
pub(super) const SIGNED_BODY_BYTES_MAX: usize = 25_000_000;
/// Beginnings of bodies longer than the prefix that one bottle may have in memory: pushes, and what is to be signed.
pub(super) const LONG_PREFIXES_PER_BOTTLE_MAX: usize = 4;
/// How much of a refused push is read: git reads the answer when it has sent all of it.
pub(super) const REFUSED_PUSH_BYTES_MAX: usize = 1 << 30;
/// And for how long.
pub(super) const REFUSED_PUSH_TIME_MAX: Duration = Duration::from_secs(60);
/// How much of a refused request's body is read, so that the answer is not lost to a reset.
pub(super) const REFUSED_BODY_BYTES_MAX: usize = 8 << 20;
/// And for how long.
pub(super) const REFUSED_BODY_TIME_MAX: Duration = Duration::from_millis(800);

/// A provider has this long to count a request before it is admitted.
pub(super) const COUNT_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest answer to that, in bytes: it holds a number or two.
pub(super) const COUNT_ANSWER_BYTES_MAX: usize = 64 << 10;

/// The controller has this long to admit or to mint.
pub(super) const CONTROLLER_TIME_MAX: Duration = Duration::from_secs(10);
/// The controller has this long to commit a settlement; the end of the response waits for it.
pub(super) const SETTLED_TIME_MAX: Duration = Duration::from_secs(30);
/// What a bottle is told of its budgets may be this old: the controller is asked no more often.
pub(super) const BUDGETS_AGE_MAX: Duration = Duration::from_millis(250);
/// Certificates kept ready.
pub(super) const LEAVES_MAX: usize = 1_024;

/// Kinds of unknown paths that one proxy tells of.
pub(super) const UNKNOWN_PATHS_MAX: usize = 256;

/// To find the addresses of a name.
pub(super) const RESOLVE_TIME_MAX: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
pub(super) const ADDRESSES_TRIED_MAX: usize = 4;
/// To connect to one address.
pub(super) const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// For TLS with a provider.
pub(super) const UPSTREAM_HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// A provider may think this long before its head: models that do not stream take minutes.
pub(super) const RESPONSE_HEAD_TIME_MAX: Duration = Duration::from_secs(900);
/// A response that fails is broken off this much later, when what was handed over has been written.
pub(super) const BROKEN_OFF_AFTER: Duration = Duration::from_millis(20);
/// An unused connection to a provider is kept this long.
pub(super) const POOL_IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// Unused connections kept per provider: a burst of streams that ends need not be dialled again.
pub(super) const POOL_IDLE_CONNECTIONS_MAX: usize = 2_048;

/// The same of a bottle's own connections to a host of its routes.
pub(super) const OWN_POOL_IDLE_CONNECTIONS_MAX: usize = 32;

/// WebSockets that one bottle may hold open; whoever wants more falls back to HTTP.
pub(super) const WEBSOCKETS_PER_BOTTLE_MAX: usize = 256;
/// Longest message of a client over a WebSocket, in bytes: it is held until it is admitted.
pub(super) const CLIENT_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Longest message of a provider, in bytes, that is held until it is known whether it ends a response.
pub(super) const PROVIDER_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// What is read of a WebSocket at once, in bytes.
pub(super) const WEBSOCKET_READ_BYTES: usize = 16 << 10;
/// Answers of the proxy's own that wait for a client to read what came before.
pub(super) const WEBSOCKET_WORDS_MAX: usize = 4;
/// A WebSocket lives this long: providers end theirs after an hour.
pub(super) const WEBSOCKET_TIME_MAX: Duration = Duration::from_secs(65 * 60);
/// When one side has closed a WebSocket, the other has this long.
pub(super) const WEBSOCKET_CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// Longest DNS query over UDP, in bytes: a query with one name and EDNS options is far shorter.
pub(super) const DNS_QUERY_BYTES_MAX: usize = 1_232;
/// A DNS connection that is silent this long is closed.
pub(super) const DNS_IDLE_TIME_MAX: Duration = Duration::from_secs(10);
/// A connection from an address that no bottle is known at waits this long for word of one.
pub(super) const STRANGER_TIME_MAX: Duration = Duration::from_secs(2);
/// Between two looks.
pub(super) const STRANGER_POLL: Duration = Duration::from_millis(10);
/// So many of them wait at once.
pub(super) const STRANGERS_MAX: usize = 256;
/// A rest after `accept` failed for want of descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Refused requests of one bottle that the controller hears of one by one, if they come at once.
pub(super) const REFUSALS_TOLD_MAX: u32 = 64;
/// After so long there is room for one more; what comes between is told with it, as a number.
pub(super) const REFUSAL_TOLD_EVERY: Duration = Duration::from_millis(100);
/// Certificates at once for names that no route has, for one bottle.
pub(super) const STRANGE_NAMES_MAX: u32 = 64;
/// After so long there is one more; without one the handshake fails.
pub(super) const STRANGE_NAME_EVERY: Duration = Duration::from_millis(250);

/// How often the controller hears what bottles have exchanged.
pub(super) const TRAFFIC_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Between two looks at what a socket has left to send.
pub(super) const DELIVERY_POLL: Duration = Duration::from_millis(1);
/// Looks without a flush after which an empty socket counts as delivered all the same.
pub(super) const DELIVERY_POLLS_WITHOUT_FLUSH: u32 = 50;
/// A refusal that has not arrived after this is not reported as heard.
pub(super) const REFUSAL_DELIVERY_TIME_MAX: Duration = Duration::from_secs(5);
