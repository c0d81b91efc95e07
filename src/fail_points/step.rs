//! The durable steps: what is done here is done, whatever happens to the process afterwards.

/// A durable step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// A daemon's row is written.
    Join,
    /// A daemon's lease is renewed.
    RenewLease,
    /// A dead daemon's partitions and rows are made free.
    Bury,
    /// Free partitions become a daemon's own.
    ClaimPartitions,
    /// A daemon becomes the one that takes the broker's deliveries.
    ClaimIntake,
    /// Another daemon may take them.
    ReleaseIntake,
    /// Partitions become free.
    ReleasePartitions,
    /// A daemon says that it drains.
    AnnounceLeaving,
    /// What is held is handed back, and the daemon's row is deleted.
    Leave,
    /// Deliveries become rows of the inbox.
    StoreDeliveries,
    /// Deliveries are acknowledged to the broker.
    AckDeliveries,
    /// Events come into the inbox from a command or over HTTP.
    PutIntoInbox,
    /// What an actor that failed had held becomes due.
    FreeEvents,
    /// Due events become held.
    ClaimEvents,
    /// A request is sent and its answer read.
    MakeCall,
    /// Outcomes, replies, next tries, dead letters and flags are written.
    Settle,
    /// Replies that were held become due.
    FreeReplies,
    /// Due replies become held.
    TakeReplies,
    /// A reply is posted.
    PostReply,
    /// It is written what came of posts.
    SettleReplies,
    /// What is kept no longer is deleted.
    Prune,
    /// Finished events come into the inbox again, by a command.
    Replay,
    /// A dead letter comes into the inbox again, by a command.
    ReplayLetter,
    /// Dead letters are deleted, by a command.
    DropLetters,
    /// A service is paused or resumed, by a command.
    ChangePause,
    /// A bot is added, by a command.
    AddBot,
    /// A service is added, by a command.
    AddService,
    /// A service is removed, by a command.
    RemoveService,
}

impl Step {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 28] = [
        Self::Join,
        Self::RenewLease,
        Self::Bury,
        Self::ClaimPartitions,
        Self::ReleasePartitions,
        Self::ClaimIntake,
        Self::ReleaseIntake,
        Self::AnnounceLeaving,
        Self::Leave,
        Self::StoreDeliveries,
        Self::AckDeliveries,
        Self::PutIntoInbox,
        Self::FreeEvents,
        Self::ClaimEvents,
        Self::MakeCall,
        Self::Settle,
        Self::FreeReplies,
        Self::TakeReplies,
        Self::PostReply,
        Self::SettleReplies,
        Self::Prune,
        Self::Replay,
        Self::ReplayLetter,
        Self::DropLetters,
        Self::ChangePause,
        Self::AddBot,
        Self::AddService,
        Self::RemoveService,
    ];

    /// Its name in that of a fail point.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::RenewLease => "renew-lease",
            Self::Bury => "bury",
            Self::ClaimPartitions => "claim-partitions",
            Self::ClaimIntake => "claim-intake",
            Self::ReleaseIntake => "release-intake",
            Self::ReleasePartitions => "release-partitions",
            Self::AnnounceLeaving => "announce-leaving",
            Self::Leave => "leave",
            Self::StoreDeliveries => "store-deliveries",
            Self::AckDeliveries => "ack-deliveries",
            Self::PutIntoInbox => "put-into-inbox",
            Self::FreeEvents => "free-events",
            Self::ClaimEvents => "claim-events",
            Self::MakeCall => "make-call",
            Self::Settle => "settle",
            Self::FreeReplies => "free-replies",
            Self::TakeReplies => "take-replies",
            Self::PostReply => "post-reply",
            Self::SettleReplies => "settle-replies",
            Self::Prune => "prune",
            Self::Replay => "replay",
            Self::ReplayLetter => "replay-letter",
            Self::DropLetters => "drop-letters",
            Self::ChangePause => "change-pause",
            Self::AddBot => "add-bot",
            Self::AddService => "add-service",
            Self::RemoveService => "remove-service",
        }
    }
}
