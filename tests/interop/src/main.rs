//! A node's miner server on the network's own message types and the QUIC stack that nodes use, with a node's limits.
//!
//!     quantus-interop-node DIRECTORY PORT ALPN
//!
//! DIRECTORY holds `miner-auth-token`; certificate, key and `miner-tls-cert-sha256` are made there by the first run.
//! PORT 0 takes a free one. Commands on stdin, one a line; its end closes the node:
//!
//!     job ID HASH DIFFICULTY    the job of all miners, also of those that come later
//!     ignore N                  drop the next N results, as a node does whose queue is full
//!
//! Events on stdout:
//!
//!     listening PORT FINGERPRINT
//!     ready                     a miner showed the token
//!     refused REASON            a miner did not get that far
//!     result JSON               one that was queued
//!     disconnected REASON       a miner that was ready is gone

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quantus_miner_api::{read_message, write_message, MinerMessage, MiningRequest};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::rustls::pki_types::PrivateKeyDer;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use tokio::io::{stdin, AsyncBufReadExt, BufReader};
use tokio::sync::broadcast;
use tokio::time::timeout;

type Failure = Box<dyn Error + Send + Sync>;

/// For the handshake, and once more for the stream with Ready.
const TIMEOUT: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
/// Jobs that may wait for one miner.
const QUEUED_JOBS: usize = 16;
/// Results in a row that cannot be queued before a miner counts as flooding.
const MAX_DROPS: u32 = 8;

struct Node {
    token: String,
    job: Mutex<Option<MiningRequest>>,
    jobs: broadcast::Sender<MiningRequest>,
    ignore: AtomicU32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, port, alpn] = arguments.as_slice() else {
        return Err("usage: quantus-interop-node DIRECTORY PORT ALPN".into());
    };
    let directory = Path::new(directory);
    let token = std::fs::read_to_string(directory.join("miner-auth-token"))?.trim().to_owned();
    let node = Arc::new(Node {
        token,
        job: Mutex::default(),
        jobs: broadcast::Sender::new(QUEUED_JOBS),
        ignore: AtomicU32::new(0),
    });

    let (certificate, key) = identity(directory)?;
    let fingerprint = fingerprint(&certificate);
    std::fs::write(directory.join("miner-tls-cert-sha256"), format!("{fingerprint}\n"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?));
    let endpoint = Endpoint::server(server_config(certificate, key, alpn)?, address)?;
    println!("listening {} {fingerprint}", endpoint.local_addr()?.port());

    let mut commands = BufReader::new(stdin()).lines();
    loop {
        tokio::select! {
            Some(incoming) = endpoint.accept() => {
                tokio::spawn(serve(node.clone(), incoming));
            }
            line = commands.next_line() => match line? {
                Some(line) => node.obey(&line)?,
                None => break,
            },
        }
    }
    endpoint.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    Ok(())
}

/// Certificate and key in DER form, the same in every run.
fn identity(directory: &Path) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let (certificate, key) = (directory.join("miner-tls-cert.der"), directory.join("miner-tls-key.der"));
    if !certificate.exists() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        std::fs::write(&certificate, made.cert.der())?;
        std::fs::write(&key, made.signing_key.serialize_der())?;
    }
    Ok((std::fs::read(certificate)?, std::fs::read(key)?))
}

fn fingerprint(certificate: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn server_config(certificate: Vec<u8>, key: Vec<u8>, alpn: &str) -> Result<quinn::ServerConfig, Failure> {
    let mut tls = quinn::rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], PrivateKeyDer::try_from(key)?)?;
    tls.alpn_protocols = vec![alpn.into()];
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .keep_alive_interval(None)
        .max_idle_timeout(Some(IDLE.try_into()?));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// One miner, from its first packet to its last.
async fn serve(node: Arc<Node>, incoming: Incoming) {
    let (send, recv) = match node.admit(incoming).await {
        Ok(streams) => streams,
        Err(why) => return println!("refused {why}"),
    };
    // From here on only the streams hold the connection: it closes, with code 0 and no words, when they are dropped.
    let jobs = node.jobs.subscribe();
    println!("ready");
    if let Err(why) = node.converse(send, recv, jobs).await {
        println!("disconnected {why}");
    }
}

impl Node {
    fn obey(&self, line: &str) -> Result<(), Failure> {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["job", id, hash, difficulty] => {
                let job = MiningRequest {
                    job_id: (*id).into(),
                    mining_hash: (*hash).into(),
                    difficulty: (*difficulty).into(),
                };
                *self.job.lock().unwrap() = Some(job.clone());
                let _ = self.jobs.send(job); // nobody may be there yet
            }
            ["ignore", count] => self.ignore.store(count.parse()?, Ordering::Relaxed),
            _ => return Err(format!("no such command: {line}").into()),
        }
        Ok(())
    }

    async fn admit(&self, incoming: Incoming) -> Result<(SendStream, RecvStream), Failure> {
        let connection = timeout(TIMEOUT, incoming).await??;
        let (words, why) = match timeout(TIMEOUT, self.authenticate(&connection)).await {
            Ok(Ok(streams)) => return Ok(streams),
            Ok(Err(why)) => ("auth failed", why),
            Err(late) => ("auth timeout", late.into()),
        };
        connection.close(VarInt::from_u32(0), words.as_bytes());
        Err(format!("{words}: {why}").into())
    }

    async fn authenticate(&self, connection: &Connection) -> Result<(SendStream, RecvStream), Failure> {
        let (send, mut recv) = connection.accept_bi().await?;
        match read_message(&mut recv).await? {
            MinerMessage::Ready { token } if token.trim() == self.token => Ok((send, recv)),
            message => Err(format!("{message:?} does not let anyone in").into()),
        }
    }

    async fn converse(
        &self,
        mut send: SendStream,
        mut recv: RecvStream,
        mut jobs: broadcast::Receiver<MiningRequest>,
    ) -> Result<(), Failure> {
        let mut drops = 0;
        let job = self.job.lock().unwrap().clone();
        if let Some(job) = job {
            write_message(&mut send, &MinerMessage::NewJob(job)).await?;
        }
        loop {
            // As in a node, a job gives up a read that has begun: what was read of a split frame is lost.
            tokio::select! {
                biased;
                message = read_message(&mut recv) => match message? {
                    MinerMessage::JobResult(result) if self.is_queued() => {
                        drops = 0;
                        println!("result {}", serde_json::to_string(&result)?);
                    }
                    MinerMessage::JobResult(_) => {
                        drops += 1;
                        if drops == MAX_DROPS {
                            return Err("results flood the queue".into());
                        }
                    }
                    message => return Err(format!("{message:?} is not for a miner to send").into()),
                },
                // A miner that is too slow for its jobs misses some; it stays.
                Ok(job) = jobs.recv() => write_message(&mut send, &MinerMessage::NewJob(job)).await?,
            }
        }
    }

    fn is_queued(&self) -> bool {
        self.ignore.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}
