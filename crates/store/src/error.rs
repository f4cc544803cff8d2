//! What can go wrong between us and Redis.

/// Why an operation on the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Redis is away, full, loading, failing over or not what it should be. Whether the operation took
    /// place is unknown; every operation may be repeated.
    #[error("Redis is unavailable: {0}")]
    Unavailable(String),
    /// Redis refused because it is full.
    #[error("Redis is out of memory: {0}")]
    Full(String),
    /// Redis answered with an error that is not one of being away.
    #[error("Redis refused: {0}")]
    Refused(String),
    /// Redis answered something that the script's contract does not know.
    #[error("unexpected reply from Redis: {0}")]
    Reply(String),
    /// This environment was started with another layout.
    #[error(
        "this environment has {stored_partitions} partitions and {stored_lanes} lanes, but the configuration says \
         {partitions} and {lanes}; both are fixed at an environment's first start"
    )]
    Layout {
        /// Partitions in Redis.
        stored_partitions: u16,
        /// Lanes in Redis.
        stored_lanes: u16,
        /// Partitions configured.
        partitions: u16,
        /// Lanes configured.
        lanes: u16,
    },
    /// The URL or a setting of the server cannot be worked with.
    #[error("{0}")]
    Unsuitable(String),
    /// Somebody else changed the object in between.
    #[error("{0} was changed by somebody else in between")]
    Conflict(String),
    /// As many messages wait to become due as may, or as many bytes of them.
    #[error("as many messages wait in their partition to become due as may")]
    TooManyDelayed,
    /// A tenant has as many subscriptions as it may have.
    #[error("this tenant has {0} subscriptions, the most that are allowed")]
    TooMany(u64),
    /// A tenant has configured as many channels as it may.
    #[error("this tenant has configured {0} channels, the most that are allowed")]
    TooManyChannels(u64),
    /// A channel is exclusive, and another service subscribes to it.
    #[error("channel {channel} is exclusive, and {service:?} subscribes to it")]
    Exclusive {
        /// The channel.
        channel: String,
        /// The service that has it.
        service: String,
    },
    /// A channel cannot become exclusive.
    #[error("channel {channel} cannot be exclusive: {services} services subscribe to it by name")]
    Shared {
        /// The channel.
        channel: String,
        /// How many have it.
        services: u64,
    },
    /// A queue that the channel feeds holds as many as the channel's `x-max-length` allows.
    #[error(
        "channel {channel} is full: a subscription has {waiting} deliveries waiting, and x-max-length is {most}"
    )]
    ChannelFull {
        /// The channel.
        channel: String,
        /// The most that wait in one queue.
        waiting: u64,
        /// The bound.
        most: u64,
    },
}

impl StoreError {
    /// Whether waiting and repeating may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full(_))
    }
}
