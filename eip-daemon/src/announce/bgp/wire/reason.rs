//! Why a NOTIFICATION is sent: error codes and subcodes as one enum.

/// Declares [`Reason`] from one table: variant, code, subcode, the name the registry gives it.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal / $subcode:literal, $name:literal;)+) => {
        /// Error code and subcode of a NOTIFICATION (RFC 4271 §4.5 and the registry's additions).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
            /// A pair this speaker never sends but may receive.
            Unassigned {
                /// Error code.
                code: u8,
                /// Error subcode.
                subcode: u8,
            },
        }

        impl Reason {
            /// Every reason this speaker knows by name.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Code and subcode.
            #[must_use]
            pub fn to_wire(self) -> (u8, u8) {
                match self {
                    $(Self::$variant => ($code, $subcode),)+
                    Self::Unassigned { code, subcode } => (code, subcode),
                }
            }

            /// The reason of a code and subcode.
            #[must_use]
            pub fn from_wire(code: u8, subcode: u8) -> Self {
                match (code, subcode) {
                    $(($code, $subcode) => Self::$variant,)+
                    (code, subcode) => Self::Unassigned { code, subcode },
                }
            }

            /// Stable name, also used as metric label.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Unassigned { .. } => "unassigned",
                }
            }
        }
    };
}

reasons! {
    /// The marker is not all ones (RFC 4271 §6.1).
    ConnectionNotSynchronized = 1 / 1, "connection not synchronized";
    /// The length is outside what the type allows; data is the length (RFC 4271 §6.1).
    BadMessageLength = 1 / 2, "bad message length";
    /// The type is unknown; data is the type (RFC 4271 §6.1).
    BadMessageType = 1 / 3, "bad message type";
    /// An OPEN that cannot be taken apart.
    OpenMessageError = 2 / 0, "open message error";
    /// Not version 4; data is the version spoken here (RFC 4271 §6.2).
    UnsupportedVersion = 2 / 1, "unsupported version number";
    /// The AS number is not the configured one (RFC 4271 §6.2).
    BadPeerAs = 2 / 2, "bad peer AS";
    /// Zero, or our own on a session inside the AS (RFC 6286 §2.2).
    BadBgpIdentifier = 2 / 3, "bad BGP identifier";
    /// A parameter other than capabilities (RFC 4271 §6.2).
    UnsupportedOptionalParameter = 2 / 4, "unsupported optional parameter";
    /// One or two seconds (RFC 4271 §6.2).
    UnacceptableHoldTime = 2 / 6, "unacceptable hold time";
    /// A capability the peer insists on (RFC 5492 §5).
    UnsupportedCapability = 2 / 7, "unsupported capability";
    /// Roles do not fit together (RFC 9234 §4.2).
    RoleMismatch = 2 / 11, "role mismatch";
    /// Lengths inside an UPDATE overrun it (RFC 4271 §6.3).
    MalformedAttributeList = 3 / 1, "malformed attribute list";
    /// A prefix longer than its address (RFC 4271 §6.3).
    InvalidNetworkField = 3 / 10, "invalid network field";
    /// Nothing heard for the hold time (RFC 4271 §6.5).
    HoldTimerExpired = 4 / 0, "hold timer expired";
    /// Unexpected message in a state the subcodes do not cover.
    FsmError = 5 / 0, "finite state machine error";
    /// Unexpected message in `OpenSent` (RFC 6608 §3).
    UnexpectedInOpenSent = 5 / 1, "unexpected message in OpenSent";
    /// Unexpected message in `OpenConfirm` (RFC 6608 §3).
    UnexpectedInOpenConfirm = 5 / 2, "unexpected message in OpenConfirm";
    /// Unexpected message in `Established` (RFC 6608 §3).
    UnexpectedInEstablished = 5 / 3, "unexpected message in Established";
    /// Cease without a subcode.
    Cease = 6 / 0, "cease";
    /// More prefixes than allowed (RFC 4486 §4).
    MaximumPrefixes = 6 / 1, "maximum number of prefixes reached";
    /// Stopped by an operator; data may carry a text (RFC 9003 §2).
    AdministrativeShutdown = 6 / 2, "administrative shutdown";
    /// The peer was removed from the configuration (RFC 4486 §4).
    PeerDeconfigured = 6 / 3, "peer de-configured";
    /// Restarted by an operator; data may carry a text (RFC 9003 §2).
    AdministrativeReset = 6 / 4, "administrative reset";
    /// A connection that is not wanted (RFC 4486 §4).
    ConnectionRejected = 6 / 5, "connection rejected";
    /// Settings changed that need a new session (RFC 4486 §4).
    OtherConfigurationChange = 6 / 6, "other configuration change";
    /// The losing connection of two (RFC 4271 §6.8).
    ConnectionCollision = 6 / 7, "connection collision resolution";
    /// Resources are used up (RFC 4486 §4).
    OutOfResources = 6 / 8, "out of resources";
    /// Drop the session and its routes; data is the true reason (RFC 8538 §3).
    HardReset = 6 / 9, "hard reset";
    /// BFD says that the path is dead (RFC 9384 §2).
    BfdDown = 6 / 10, "BFD down";
    /// A refresh marker of the wrong length (RFC 7313 §5).
    InvalidRefreshLength = 7 / 1, "invalid route refresh message length";
    /// The peer has not taken a byte for the send hold time (RFC 9687 §4).
    SendHoldTimerExpired = 8 / 0, "send hold timer expired";
}

impl Reason {
    /// Whether data may start with a counted text (RFC 9003 §2).
    #[must_use]
    pub fn carries_communication(self) -> bool {
        matches!(
            self,
            Self::AdministrativeShutdown | Self::AdministrativeReset
        )
    }
}
