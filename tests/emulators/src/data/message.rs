//! Protocol buffer messages within records of serde: as their bytes.

use prost::Message;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(
    message: &impl Message,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(&message.encode_to_vec())
}

pub(crate) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<M, D::Error> {
    let bytes = Vec::<u8>::deserialize(deserializer)?;
    M::decode(bytes.as_slice()).map_err(D::Error::custom)
}
