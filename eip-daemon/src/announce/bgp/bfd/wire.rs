//! The BFD control packet (RFC 5880 §4.1) to and from bytes. No sockets, no clock, no state.

use std::time::Duration;

/// Length without an authentication section, which is not spoken here.
pub const PACKET_LEN: usize = 24;

const VERSION: u8 = 1;

/// State of a session (RFC 5880 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Switched off by an operator; says nothing about the path.
    AdminDown,
    /// No path, as far as is known.
    #[default]
    Down,
    /// The other side is heard.
    Init,
    /// Both sides hear each other.
    Up,
}

impl State {
    fn to_wire(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    fn from_wire(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    /// Stable name, also used as metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        }
    }
}

/// Why a session was last taken down (RFC 5880 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Diagnostic {
    /// 0: it was not.
    #[default]
    None,
    /// 1: nothing was heard for the detection time.
    DetectionTimeExpired,
    /// 3: the other side said so.
    NeighborSignaledDown,
    /// 7: an operator did.
    AdministrativelyDown,
    /// A reason this speaker never gives.
    Other(u8),
}

impl Diagnostic {
    fn to_wire(self) -> u8 {
        match self {
            Self::None => 0,
            Self::DetectionTimeExpired => 1,
            Self::NeighborSignaledDown => 3,
            Self::AdministrativelyDown => 7,
            Self::Other(code) => code,
        }
    }

    fn from_wire(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::DetectionTimeExpired,
            3 => Self::NeighborSignaledDown,
            7 => Self::AdministrativelyDown,
            code => Self::Other(code),
        }
    }
}

/// A control packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of the packet")]
pub struct Control {
    /// Why the sender's session was last taken down.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: an answer is wanted.
    pub poll: bool,
    /// F: this is the answer.
    pub is_final: bool,
    /// C: the sender's BFD outlives its control plane (RFC 5882 §4.3).
    pub is_control_plane_independent: bool,
    /// D: the sender wants no periodic packets while both sides are up.
    pub demand: bool,
    /// Packets that may be lost in a row. Not zero.
    pub detect_multiplier: u8,
    /// The sender's discriminator. Not zero.
    pub my_discriminator: u32,
    /// The receiver's, zero while it is not known.
    pub your_discriminator: u32,
    /// How often the sender would like to send.
    pub desired_min_tx: Duration,
    /// How often the sender can take packets; zero for never.
    pub required_min_rx: Duration,
}

impl Control {
    /// The packet as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let flags = flag(self.poll, 0x20)
            | flag(self.is_final, 0x10)
            | flag(self.is_control_plane_independent, 0x08)
            | flag(self.demand, 0x02);
        let mut bytes = [0; PACKET_LEN];
        let fixed = [
            VERSION << 5 | self.diagnostic.to_wire() & 0x1f,
            self.state.to_wire() << 6 | flags,
            self.detect_multiplier,
            24,
        ];
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            micros(self.desired_min_tx),
            micros(self.required_min_rx),
            0, // no echo
        ];
        let all = fixed
            .into_iter()
            .chain(words.into_iter().flat_map(u32::to_be_bytes));
        for (place, byte) in bytes.iter_mut().zip(all) {
            *place = byte;
        }
        bytes
    }

    /// Reads a packet; `None` for what RFC 5880 §6.8.6 tells to discard whatever the session.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let packet = bytes.first_chunk::<PACKET_LEN>()?;
        let [first, second, detect_multiplier, len, rest @ ..] = packet;
        let is_multipoint = second & 0x01 != 0;
        let has_authentication = second & 0x04 != 0;
        let fits = (PACKET_LEN..=bytes.len()).contains(&usize::from(*len));
        if first >> 5 != VERSION || !fits || *detect_multiplier == 0 || is_multipoint {
            return None;
        }
        // Nothing is configured to be authenticated.
        if has_authentication {
            return None;
        }
        let word = |index: usize| -> Option<u32> {
            let bytes = rest.get(4 * index..)?.first_chunk::<4>()?;
            Some(u32::from_be_bytes(*bytes))
        };
        let duration = |index| word(index).map(|micros| Duration::from_micros(micros.into()));
        let control = Self {
            diagnostic: Diagnostic::from_wire(first & 0x1f),
            state: State::from_wire(second >> 6),
            poll: second & 0x20 != 0,
            is_final: second & 0x10 != 0,
            is_control_plane_independent: second & 0x08 != 0,
            demand: second & 0x02 != 0,
            detect_multiplier: *detect_multiplier,
            my_discriminator: word(0)?,
            your_discriminator: word(1)?,
            desired_min_tx: duration(2)?,
            required_min_rx: duration(3)?,
        };
        let is_lost =
            control.your_discriminator == 0 && matches!(control.state, State::Init | State::Up);
        (control.my_discriminator != 0 && !is_lost).then_some(control)
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
