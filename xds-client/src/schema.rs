//! Nothing that is not understood gets through.
//!
//! Generated protobuf code skips fields it does not know, and hands unknown enum values on as numbers. A
//! policy of which a part was skipped can allow what it was written to deny. So the bytes of a resource
//! are first walked along the schema that this program was built with, and any field or enum value
//! outside of it is a fault, with its path. The walk also gives malformed input an exact path.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Why bytes are not a message of this schema.
#[derive(Debug, PartialEq)]
pub struct Fault {
    /// `rules[0].from[1].principals[0]`; empty for the message as a whole.
    pub field: String,
    pub message: String,
}

impl Fault {
    pub(crate) fn new(field: &str, message: impl Into<String>) -> Fault {
        Fault {
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

/// Checks `bytes` against the message `name` of the package `kith.mesh.v1`.
pub(crate) fn check(name: &str, bytes: &[u8]) -> Result<(), Fault> {
    SCHEMA.walk(&format!(".kith.mesh.v1.{name}"), bytes, "")
}

struct Schema {
    /// By full name with a leading dot, as fields refer to them.
    messages: HashMap<String, BTreeMap<u32, Field>>,
    enums: HashMap<String, BTreeSet<i32>>,
}

struct Field {
    name: String,
    repeated: bool,
    content: Content,
}

enum Content {
    Message(String),
    Enum(String),
    String,
    Bytes,
    Uint32,
    Varint,
    Fixed32,
    Fixed64,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    // Written by build.rs. Should it ever not decode, the schema is empty and every resource is refused.
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.binpb"));
    let files = FileDescriptorSet::decode(bytes).unwrap_or_default();
    let mut schema = Schema {
        messages: HashMap::new(),
        enums: HashMap::new(),
    };
    for file in files.file {
        let package = format!(".{}", file.package());
        file.enum_type
            .iter()
            .for_each(|described| schema.add_enum(&package, described));
        file.message_type
            .iter()
            .for_each(|described| schema.add_message(&package, described));
    }
    schema
});

impl Schema {
    fn add_message(&mut self, parent: &str, described: &DescriptorProto) {
        let name = format!("{parent}.{}", described.name());
        described
            .enum_type
            .iter()
            .for_each(|inner| self.add_enum(&name, inner));
        described
            .nested_type
            .iter()
            .for_each(|inner| self.add_message(&name, inner));
        let fields = described
            .field
            .iter()
            .map(|field| (field.number().cast_unsigned(), Field::new(field)));
        self.messages.insert(name, fields.collect());
    }

    fn add_enum(&mut self, parent: &str, described: &EnumDescriptorProto) {
        let values = described
            .value
            .iter()
            .map(prost_types::EnumValueDescriptorProto::number)
            .collect();
        self.enums
            .insert(format!("{parent}.{}", described.name()), values);
    }

    /// The schema has no recursive message, so the depth is bounded by it and not by the input.
    fn walk(&self, message: &str, mut bytes: &[u8], path: &str) -> Result<(), Fault> {
        let fields = self.messages.get(message).ok_or_else(|| {
            Fault::new(
                path,
                format!("{message} is not part of this version's schema"),
            )
        })?;
        let mut seen = BTreeMap::<u32, usize>::new();
        while !bytes.is_empty() {
            let (number, wire_type) =
                decode_key(&mut bytes).map_err(|error| Fault::new(path, error.to_string()))?;
            let Some(field) = fields.get(&number) else {
                return Err(Fault::new(
                    &join(path, &format!("#{number}")),
                    "a field that this version does not know",
                ));
            };
            let index = seen.entry(number).or_default();
            let field_path = match field.repeated {
                true => join(path, &format!("{}[{index}]", field.name)),
                false => join(path, &field.name),
            };
            *index += 1;
            self.value(field, wire_type, &mut bytes, &field_path)?;
        }
        Ok(())
    }

    fn value(
        &self,
        field: &Field,
        wire_type: WireType,
        bytes: &mut &[u8],
        path: &str,
    ) -> Result<(), Fault> {
        let fault = |message: &str| Fault::new(path, message);
        match (&field.content, wire_type) {
            (Content::Message(message), WireType::LengthDelimited) => {
                self.walk(message, delimited(bytes, path)?, path)
            }
            (Content::String, WireType::LengthDelimited) => {
                let text = delimited(bytes, path)?;
                std::str::from_utf8(text)
                    .map(|_| ())
                    .map_err(|_| fault("not UTF-8"))
            }
            (Content::Bytes, WireType::LengthDelimited) => delimited(bytes, path).map(|_| ()),
            (Content::Varint | Content::Uint32 | Content::Enum(_), WireType::Varint) => {
                self.varint(field, bytes, path)
            }
            (Content::Fixed32, WireType::ThirtyTwoBit) => split(bytes, 4, path).map(|_| ()),
            (Content::Fixed64, WireType::SixtyFourBit) => split(bytes, 8, path).map(|_| ()),
            // Numbers in a repeated field may be packed.
            (content, WireType::LengthDelimited) if field.repeated => {
                let mut packed = delimited(bytes, path)?;
                while !packed.is_empty() {
                    match content {
                        Content::Fixed32 => split(&mut packed, 4, path).map(|_| ())?,
                        Content::Fixed64 => split(&mut packed, 8, path).map(|_| ())?,
                        _ => self.varint(field, &mut packed, path)?,
                    }
                }
                Ok(())
            }
            _ => Err(fault("not of the type that the schema has")),
        }
    }

    fn varint(&self, field: &Field, bytes: &mut &[u8], path: &str) -> Result<(), Fault> {
        let value = decode_varint(bytes).map_err(|error| Fault::new(path, error.to_string()))?;
        match &field.content {
            Content::Enum(name) => {
                let known = self.enums.get(name);
                let number = i32::try_from(value.cast_signed());
                if number.is_ok_and(|number| known.is_some_and(|known| known.contains(&number))) {
                    return Ok(());
                }
                Err(Fault::new(
                    path,
                    format!("{value} is not a value that this version knows"),
                ))
            }
            // Decoding would cut off the upper half: port 2^32 + 80 would be port 80.
            Content::Uint32 if u32::try_from(value).is_err() => Err(Fault::new(
                path,
                format!("{value} is too large for 32 bits"),
            )),
            _ => Ok(()),
        }
    }
}

impl Field {
    fn new(described: &FieldDescriptorProto) -> Field {
        let type_name = || described.type_name().to_owned();
        let content = match described.r#type() {
            Type::Message | Type::Group => Content::Message(type_name()),
            Type::Enum => Content::Enum(type_name()),
            Type::String => Content::String,
            Type::Bytes => Content::Bytes,
            Type::Fixed32 | Type::Sfixed32 | Type::Float => Content::Fixed32,
            Type::Fixed64 | Type::Sfixed64 | Type::Double => Content::Fixed64,
            Type::Uint32 => Content::Uint32,
            Type::Int32 | Type::Int64 | Type::Uint64 | Type::Sint32 | Type::Sint64 | Type::Bool => {
                Content::Varint
            }
        };
        Field {
            name: described.name().to_owned(),
            repeated: described.label() == Label::Repeated,
            content,
        }
    }
}

fn delimited<'a>(bytes: &mut &'a [u8], path: &str) -> Result<&'a [u8], Fault> {
    let length = decode_varint(bytes).map_err(|error| Fault::new(path, error.to_string()))?;
    split(bytes, usize::try_from(length).unwrap_or(usize::MAX), path)
}

fn split<'a>(bytes: &mut &'a [u8], length: usize, path: &str) -> Result<&'a [u8], Fault> {
    let (value, rest) = bytes
        .split_at_checked(length)
        .ok_or_else(|| Fault::new(path, "cut short"))?;
    *bytes = rest;
    Ok(value)
}

fn join(path: &str, field: &str) -> String {
    match path {
        "" => field.to_owned(),
        _ => format!("{path}.{field}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::mesh;

    fn check_bytes(name: &str, bytes: &[u8], field: &str, message: &str) {
        assert_eq!(check(name, bytes), Err(Fault::new(field, message)));
    }

    #[test]
    fn accepts_every_field_of_the_schema() {
        let port = mesh::Port {
            number: 80,
            protocol: 1,
            mtls_mode: 1,
            encoded_slash: 2,
        };
        let config = mesh::WorkloadConfig {
            revision: "1".to_owned(),
            labels: [("app".to_owned(), String::new())].into(),
            ports: vec![port, port],
            trusted_forwarded_hops: 1,
            ..Default::default()
        };
        assert_eq!(check("WorkloadConfig", &config.encode_to_vec()), Ok(()));

        let endpoint = mesh::Endpoint {
            target_ports: [(0, 8080), (80, 0)].into(),
            spiffe_ids: vec!["spiffe://a/b".to_owned()],
            ..Default::default()
        };
        let address = mesh::Address {
            kind: Some(mesh::address::Kind::Workload(endpoint)),
        };
        assert_eq!(check("Address", &address.encode_to_vec()), Ok(()));

        let revocation = mesh::Revocation {
            until: Some(prost_types::Timestamp {
                seconds: 5,
                nanos: 7,
            }),
            ..Default::default()
        };
        let list = mesh::RevocationList {
            revocations: vec![revocation],
        };
        assert_eq!(check("RevocationList", &list.encode_to_vec()), Ok(()));
    }

    #[test]
    fn refuses_a_field_that_this_version_does_not_know() {
        // rules[1].from[0] with a field 15.
        let bytes = [
            &[0x22, 0x00][..],
            &[0x22, 0x05, 0x0a, 0x03, 0x7a, 0x01, b'x'],
        ]
        .concat();
        check_bytes(
            "AuthorizationPolicy",
            &bytes,
            "rules[1].from[0].#15",
            "a field that this version does not know",
        );
    }

    #[test]
    fn refuses_an_enum_value_that_this_version_does_not_know() {
        check_bytes(
            "AuthorizationPolicy",
            &[0x18, 0x63],
            "action",
            "99 is not a value that this version knows",
        );
    }

    #[test]
    fn refuses_a_number_that_would_be_cut_off() {
        // ports[0].number = 2^32 + 80
        let bytes = [0x52, 0x06, 0x08, 0xd0, 0x80, 0x80, 0x80, 0x10];
        check_bytes(
            "WorkloadConfig",
            &bytes,
            "ports[0].number",
            "4294967376 is too large for 32 bits",
        );
    }

    #[test]
    fn names_the_field_that_is_malformed() {
        check_bytes(
            "AuthorizationPolicy",
            &[0x0a, 0x01, 0xff],
            "namespace",
            "not UTF-8",
        );
        check_bytes(
            "AuthorizationPolicy",
            &[0x0a, 0x05, b'x'],
            "namespace",
            "cut short",
        );
        check_bytes(
            "AuthorizationPolicy",
            &[0x08, 0x05],
            "namespace",
            "not of the type that the schema has",
        );
    }

    proptest::proptest! {
        #[test]
        fn what_passes_can_be_decoded(
            bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..64),
            at in 0..64_usize,
        ) {
            // Noise seldom gets past the first field, so it is also put into a message.
            let source = mesh::Source { principals: vec!["td/ns/a/sa/b".to_owned()], ..Default::default() };
            let rule = mesh::Rule { from: vec![source.clone(), source], ..Default::default() };
            let policy = mesh::AuthorizationPolicy { action: 1, rules: vec![rule], ..Default::default() };
            let mut message = policy.encode_to_vec();
            let at = at.min(message.len());
            message.splice(at..(at + bytes.len() / 8).min(message.len()), bytes.iter().take(4).copied());
            for input in [bytes, message] {
                if check("AuthorizationPolicy", &input).is_ok() {
                    proptest::prop_assert!(mesh::AuthorizationPolicy::decode(input.as_slice()).is_ok());
                }
            }
        }
    }
}
