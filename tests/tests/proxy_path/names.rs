//! The bottle's resolver, over both transports.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::client::tcp;
use super::world::{GATEWAY, PATIENCE, PROVIDER, STRANGER, World};

/// A query for the address of `name`.
pub(crate) fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

/// Response code and, when there is an answer, its last four bytes.
fn read(answer: &[u8]) -> (u8, Option<[u8; 4]>) {
    assert_eq!(&answer[..2], &[0x12, 0x34]);
    let address = (answer[7] > 0).then(|| answer[answer.len() - 4..].try_into().unwrap());
    (answer[3] & 0x0f, address)
}

#[tokio::test]
async fn allowed_names_lead_to_the_gateway_and_others_are_refused() {
    let world = World::start().await;
    let expected = [(PROVIDER, (0, Some(GATEWAY.octets()))), ("example.com", (5, None))];
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut stream = tcp(world.doors.dns_tcp).await.unwrap();
    for (name, answer) in expected {
        let mut bytes = [0; 512];
        socket.send_to(b"garbage", world.doors.dns_udp).await.unwrap();
        socket.send_to(&query(name), world.doors.dns_udp).await.unwrap();
        let length = timeout(PATIENCE, socket.recv(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(read(&bytes[..length]), answer, "{name} over UDP");
        let query = query(name);
        stream.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let length = usize::from(stream.read_u16().await.unwrap());
        stream.read_exact(&mut bytes[..length]).await.unwrap();
        assert_eq!(read(&bytes[..length]), answer, "{name} over TCP");
    }
}

#[tokio::test]
async fn who_is_no_bottle_gets_no_answer() {
    let world = World::start().await;
    let socket = UdpSocket::bind((STRANGER, 0)).await.unwrap();
    socket.send_to(&query(PROVIDER), world.doors.dns_udp).await.unwrap();
    let answer = timeout(std::time::Duration::from_millis(200), socket.recv(&mut [0; 512])).await;
    assert!(answer.is_err());
}
