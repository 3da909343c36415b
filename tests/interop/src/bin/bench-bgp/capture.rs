//! What went over the wire: tcpdump's file, taken apart into BGP messages.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};
use eip_interop_tests::Bench;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// tcpdump that runs.
pub(crate) struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

/// The UPDATEs among what was seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) first: SystemTime,
    pub(crate) last: SystemTime,
    pub(crate) updates: u32,
    pub(crate) bytes: u32,
}

impl Capture {
    /// Everything the sender says, from now on. The stream has to be between two messages.
    pub(crate) fn start(bench: &Bench) -> anyhow::Result<Self> {
        let file = bench.dir().join("sender.pcap");
        let mut tcpdump = bench
            .speaker
            .command("tcpdump")
            .args(["-n", "-i", "v0", "-B", "65536", "-Z", "root"])
            .args(["--immediate-mode", "-U", "-w"])
            .arg(&file)
            .arg("tcp and src host 10.99.0.2 and port 179")
            .stderr(Stdio::piped())
            .spawn()
            .context("start tcpdump")?;
        let mut lines = BufReader::new(tcpdump.stderr.take().context("its errors")?).lines();
        let begins = lines.find_map(|line| line.ok().filter(|line| line.contains("listening")));
        begins.context("tcpdump ended")?;
        // Keeps the pipe open, so that its last words have somewhere to go.
        std::thread::spawn(move || lines.count());
        Ok(Self { tcpdump, file })
    }

    pub(crate) fn finish(mut self) -> anyhow::Result<Seen> {
        let pid = i32::try_from(self.tcpdump.id())?;
        eip_lab::wait::pause(Duration::from_millis(200));
        kill(Pid::from_raw(pid), Signal::SIGINT)?;
        self.tcpdump.wait()?;
        read(&std::fs::read(&self.file)?)
    }
}

/// The pcap format: 24 bytes of file header, then records of 16 bytes of header and a frame each.
fn read(file: &[u8]) -> anyhow::Result<Seen> {
    let word = |at: usize| -> Option<u32> {
        let bytes = file.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    ensure!(
        word(0) == Some(0xa1b2_c3d4),
        "not a pcap file of this machine"
    );
    let mut segments: BTreeMap<u32, (SystemTime, &[u8])> = BTreeMap::new();
    let mut at = 24;
    while let (Some(secs), Some(micros), Some(len)) = (word(at), word(at + 4), word(at + 8)) {
        let len = usize::try_from(len)?;
        let Some(frame) = file.get(at + 16..at + 16 + len) else {
            break;
        };
        at += 16 + len;
        let time = Duration::new(secs.into(), 0) + Duration::from_micros(micros.into());
        if let Some((seq, payload)) = tcp(frame)
            && !payload.is_empty()
        {
            segments.insert(seq, (SystemTime::UNIX_EPOCH + time, payload));
        }
    }
    messages(&segments)
}

/// Sequence number and payload of an IPv4 frame.
fn tcp(frame: &[u8]) -> Option<(u32, &[u8])> {
    let ip = frame.get(14..)?;
    let ip_len = usize::from(*ip.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let tcp = ip.get(ip_len..total)?;
    let seq = u32::from_be_bytes(*tcp.get(4..)?.first_chunk::<4>()?);
    let offset = usize::from(*tcp.get(12)? >> 4) * 4;
    Some((seq, tcp.get(offset..)?))
}

/// Nothing at all, or an empty `MP_UNREACH_NLRI` (RFC 4724 §2).
fn is_end_of_rib(body: &[u8]) -> bool {
    let forms: [&[u8]; 2] = [&[0, 0, 0, 6, 0x80, 15, 3], &[0, 0, 0, 7, 0x90, 15, 0, 3]];
    body == [0; 4] || forms.iter().any(|form| body.starts_with(form))
}

fn messages(segments: &BTreeMap<u32, (SystemTime, &[u8])>) -> anyhow::Result<Seen> {
    let mut stream: Vec<u8> = Vec::new();
    let mut times: Vec<(usize, SystemTime)> = Vec::new();
    let (start, _) = segments.first_key_value().context("nothing was sent")?;
    for (seq, (time, payload)) in segments {
        let at = usize::try_from(seq.wrapping_sub(*start))?;
        ensure!(
            at <= stream.len(),
            "the capture has a gap at byte {}",
            stream.len()
        );
        let known = stream.len() - at;
        if let Some(new) = payload.get(known..) {
            times.push((stream.len(), *time));
            stream.extend_from_slice(new);
        }
    }
    let (mut first, mut last, mut updates, mut bytes) = (None, None, 0, 0);
    let mut at = 0;
    while let Some(header) = stream.get(at..at + 19) {
        ensure!(header.starts_with(&[0xff; 16]), "out of step at byte {at}");
        let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let body = stream.get(at + 19..at + len).unwrap_or_default();
        if header[18] == 2 && !is_end_of_rib(body) {
            updates += 1;
            bytes += u32::try_from(len)?;
            let sent = times.partition_point(|(start, _)| *start <= at);
            let sent = times.get(sent.saturating_sub(1)).map(|(_, time)| *time);
            first = first.or(sent);
            last = sent;
        }
        at += len;
    }
    Ok(Seen {
        first: first.context("no UPDATE was sent")?,
        last: last.context("no UPDATE was sent")?,
        updates,
        bytes,
    })
}
