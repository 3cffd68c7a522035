//! Elements, tables and the generation of the rulesets as netlink messages of nftables, in both directions.

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_HEADER_SIZE, NLM_F_CREATE, NLM_F_EXCL, NlasIterator, ParseableParametrized,
};
use netlink_packet_netfilter::nftables::{
    DataAttribute, GenAttribute, GenMessage, ListAttribute, NfTablesMessage, SetElementAttribute,
    SetElementList, SetElementMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily, NetfilterSubsystem};

use super::{Change, TableFamily};
use crate::socket::{Message, Request};
use ferrule_model::{Element, Value};

/// `struct nfgenmsg`.
pub(super) const HEADER_LEN: usize = 4;
/// `NFNL_BATCH_GENID`.
const BATCH_GENID: u16 = 1;
/// `NFTNL_UDATA_SET_ELEM_COMMENT` of libnftnl. User data is a list of type, length and value. Type and length take one
/// byte each, and a comment ends with NUL.
const COMMENT: u8 = 0;
/// `NFT_USERDATA_MAXLEN` without type, length and NUL.
const COMMENT_MAX: usize = 252;
/// `NFTA_SET_ELEM_LIST_ELEMENTS`, `NFTA_SET_ELEM_*`, `NFTA_DATA_*` and `NFTA_VERDICT_*`.
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USER_DATA: u16 = 6;
const ELEMENT_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFT_GOTO`.
const GOTO: i32 = -4;
/// `NFTA_TABLE_HANDLE`.
const TABLE_HANDLE: u16 = 4;
/// `NFTA_OBJ_*`, `NFT_OBJECT_COUNTER` and `NFTA_COUNTER_PACKETS`.
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;
/// The most bytes that an element has around its keys, value and comment: eleven headers of attributes, padding, a
/// verdict's number, the comment's own.
const ELEMENT_OVERHEAD: usize = 80;
/// Bytes of the elements in one message. The length of an attribute has 16 bits.
const ELEMENTS_MAX: usize = 60_000;
pub(super) fn request(
    subsystem: NetfilterSubsystem,
    kind: u8,
    flags: u16,
    header: &NetfilterHeader,
    message: &impl Emitable,
) -> Request {
    let mut payload = vec![0; HEADER_LEN + message.buffer_len()];
    header.emit(&mut payload[..HEADER_LEN]);
    message.emit(&mut payload[HEADER_LEN..]);
    Request { kind: u16::from_be_bytes([subsystem.into(), kind]), flags, payload }
}

/// The beginning and the end of a transaction of nftables.
pub(super) fn bounds(generation: Option<u32>) -> [Request; 2] {
    let header =
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, u8::from(NetfilterSubsystem::NfTables).into());
    let bound = |message: &ControlMessage, attributes: &[DefaultNla]| {
        request(NetfilterSubsystem::None, message.message_type().into(), 0, &header, &attributes)
    };
    let guard = generation.map(|id| DefaultNla::new(BATCH_GENID, id.to_be_bytes().to_vec()));
    [bound(&ControlMessage::BatchBegin, guard.as_slice()), bound(&ControlMessage::BatchEnd, &[])]
}

fn nftables(family: TableFamily, message: &NfTablesMessage, flags: u16) -> Request {
    let family = match family {
        TableFamily::Inet => NetfilterProtoFamily::Inet,
        TableFamily::Bridge => NetfilterProtoFamily::Bridge,
    };
    let header = NetfilterHeader::new(family, 0, 0);
    request(NetfilterSubsystem::NfTables, message.message_type().into(), flags, &header, message)
}

/// The messages of a transaction. Neighbouring changes of one set that all add or all delete share a message. So
/// thousands of changes are only a handful of messages, and a handful of refusals at most.
pub(super) fn changes((family, table): (TableFamily, &str), changes: &[Change<'_>]) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut rest = changes;
    while let Some(first) = rest.first() {
        let mut room = ELEMENTS_MAX;
        let mut count = 0;
        while let Some(next) = rest.get(count).filter(|next| next.goes_with(first) && size(next) <= room) {
            room -= size(next);
            count += 1;
        }
        let (together, behind) = rest.split_at(count.max(1));
        requests.push(list_of((family, table), together));
        rest = behind;
    }
    requests
}

/// The most bytes that an element takes in a message.
fn size(change: &Change<'_>) -> usize {
    match change {
        Change::Add(element) | Change::Delete(element) => {
            let value = match &element.value {
                Value::Data(bytes) => bytes.len(),
                Value::Goto(chain) => chain.len(),
                Value::None | Value::Verdict(_) => 0,
            };
            ELEMENT_OVERHEAD + element.key.len() + element.end.len() + value + element.comment.len()
        }
        Change::Clear(_) => 0,
    }
}

fn list_of((family, table): (TableFamily, &str), changes: &[Change<'_>]) -> Request {
    let list = |set: &str, elements: Vec<ListAttribute<SetElementAttribute>>| {
        let mut attributes =
            vec![SetElementList::Table(table.to_owned()), SetElementList::Set(set.to_owned())];
        if !elements.is_empty() {
            attributes.push(SetElementList::Elements(elements));
        }
        SetElementMessage { attributes }
    };
    let elements = || changes.iter().filter_map(attributes_of).map(ListAttribute::Element).collect();
    match changes.first() {
        Some(Change::Add(first)) => {
            let add = NfTablesMessage::NewSetElement(list(first.set, elements()));
            nftables(family, &add, NLM_F_CREATE | NLM_F_EXCL)
        }
        Some(Change::Delete(first)) => {
            nftables(family, &NfTablesMessage::DeleteSetElement(list(first.set, elements())), 0)
        }
        // A list without elements means all elements (`nf_tables_delsetelem`).
        Some(Change::Clear(set)) => {
            nftables(family, &NfTablesMessage::DeleteSetElement(list(set, Vec::new())), 0)
        }
        None => nftables(family, &NfTablesMessage::NewSetElement(list("", Vec::new())), 0),
    }
}

fn attributes_of(change: &Change<'_>) -> Option<Vec<SetElementAttribute>> {
    match change {
        Change::Add(element) => {
            let mut attributes = keys(element);
            attributes.extend(data(&element.value).map(SetElementAttribute::Data));
            if !element.comment.is_empty() {
                attributes.push(SetElementAttribute::UserData(user_data(&element.comment)));
            }
            Some(attributes)
        }
        Change::Delete(element) => Some(keys(element)),
        Change::Clear(_) => None,
    }
}

fn keys(element: &Element) -> Vec<SetElementAttribute> {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(element.key.clone()))];
    if !element.end.is_empty() {
        let end = DefaultNla::new(DATA_VALUE, element.end.clone());
        attributes.push(SetElementAttribute::KeyEnd(vec![end]));
    }
    attributes
}

fn data(value: &Value) -> Option<DataAttribute> {
    let verdict = |code: i32| VerdictAttribute::Code(Verdict::from(code.cast_unsigned()));
    match value {
        Value::None => None,
        Value::Data(bytes) => Some(DataAttribute::Value(bytes.clone())),
        Value::Goto(chain) => {
            Some(DataAttribute::Verdict(vec![verdict(GOTO), VerdictAttribute::Chain(chain.clone())]))
        }
        Value::Verdict(code) => Some(DataAttribute::Verdict(vec![verdict(*code)])),
    }
}

pub(super) fn list((family, table): (TableFamily, &str), set: &str) -> Request {
    let attributes = vec![SetElementList::Table(table.to_owned()), SetElementList::Set(set.to_owned())];
    nftables(family, &NfTablesMessage::GetSetElement(SetElementMessage { attributes }), 0)
}

pub(super) fn table(family: TableFamily, name: &str) -> Request {
    let attributes = vec![TableAttribute::Name(name.to_owned())];
    nftables(family, &NfTablesMessage::GetTable(TableMessage { attributes }), 0)
}

/// The number of the table that a message tells of.
pub(super) fn parse_table_number(message: &Message) -> Option<u64> {
    let attributes = message.payload.get(HEADER_LEN..)?;
    let (_, number) = inside(attributes).find(|(kind, _)| *kind == TABLE_HANDLE)?;
    number.try_into().ok().map(u64::from_be_bytes)
}

/// Asks for the counters of a table, by a dump.
pub(super) fn counters((family, table): (TableFamily, &str)) -> Request {
    let name = [table.as_bytes(), &[0]].concat();
    let asked = vec![
        DefaultNla::new(OBJECT_TABLE, name),
        DefaultNla::new(OBJECT_TYPE, COUNTER.to_be_bytes().to_vec()),
    ];
    nftables(family, &NfTablesMessage::GetObject(asked), 0)
}

/// A counter's name, and the number of packets it has counted.
pub(super) fn parse_counter(message: &Message) -> Option<(String, u64)> {
    let (mut name, mut packets) = (None, None);
    for (kind, value) in inside(message.payload.get(HEADER_LEN..)?) {
        match kind {
            OBJECT_NAME => {
                name = value.strip_suffix(&[0]).map(|name| String::from_utf8_lossy(name).into_owned());
            }
            OBJECT_DATA => {
                let counted = inside(value).find(|(kind, _)| *kind == COUNTER_PACKETS);
                packets = counted.and_then(|(_, value)| value.try_into().ok()).map(u64::from_be_bytes);
            }
            _ => {}
        }
    }
    name.zip(packets)
}

pub(super) fn generation() -> Request {
    // All families share the generation.
    nftables(TableFamily::Inet, &NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() }), 0)
}

pub(super) fn parse_generation(message: &Message) -> Option<u32> {
    match parse_nftables(message)? {
        NfTablesMessage::NewGen(found) => found.attributes.iter().find_map(|attribute| match attribute {
            GenAttribute::Id(id) => Some(*id),
            _ => None,
        }),
        _ => None,
    }
}

fn parse_nftables(message: &Message) -> Option<NfTablesMessage> {
    let [_, kind] = message.kind.to_be_bytes();
    NfTablesMessage::parse_with_param(message.payload.get(HEADER_LEN..)?, kind).ok()
}

/// The elements in a message of a list. They are read by hand: the packet crate writes the whole list into the text of
/// an error message, once for each element, even without an error (100 us an element, in version 0.4.0).
pub(super) fn parse_elements(message: &Message, set: &'static str) -> Vec<Element> {
    let attributes = message.payload.get(HEADER_LEN..).unwrap_or_default();
    let lists = inside(attributes).filter(|(kind, _)| *kind == ELEMENTS);
    lists.flat_map(|(_, list)| inside(list).map(|(_, element)| parse_element(element, set))).collect()
}

fn parse_element(attributes: &[u8], set: &'static str) -> Element {
    let bytes =
        |nested| inside(nested).find(|(kind, _)| *kind == DATA_VALUE).map(|(_, value)| value.to_vec());
    let mut element = Element::of_set(set, Vec::new(), String::new());
    for (kind, value) in inside(attributes) {
        match kind {
            ELEMENT_KEY => element.key = bytes(value).unwrap_or_default(),
            ELEMENT_KEY_END => element.end = bytes(value).unwrap_or_default(),
            ELEMENT_DATA => element.value = parse_value(value),
            ELEMENT_USER_DATA => element.comment = comment(value),
            _ => {}
        }
    }
    element
}

fn parse_value(data: &[u8]) -> Value {
    match inside(data).next() {
        Some((DATA_VALUE, bytes)) => Value::Data(bytes.to_vec()),
        Some((DATA_VERDICT, verdict)) => parse_verdict(verdict),
        _ => Value::None,
    }
}

fn parse_verdict(verdict: &[u8]) -> Value {
    let (mut code, mut chain) = (0, None);
    for (kind, value) in inside(verdict) {
        match kind {
            VERDICT_CODE => code = value.try_into().map(i32::from_be_bytes).unwrap_or_default(),
            VERDICT_CHAIN => chain = value.strip_suffix(&[0]),
            _ => {}
        }
    }
    match chain {
        Some(chain) if code == GOTO => Value::Goto(String::from_utf8_lossy(chain).into_owned()),
        _ => Value::Verdict(code),
    }
}

/// The attributes inside the value of another one.
fn inside(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).filter_map(Result::ok).map(|attribute| {
        let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
        (kind, attribute.into_inner().get(NLA_HEADER_SIZE..end).unwrap_or_default())
    })
}

fn user_data(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(COMMENT_MAX);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let mut data = vec![COMMENT, u8::try_from(end + 1).unwrap_or(u8::MAX)];
    data.extend_from_slice(&comment.as_bytes()[..end]);
    data.push(0);
    data
}

fn comment(mut data: &[u8]) -> String {
    while let [kind, length, rest @ ..] = data {
        let Some((value, behind)) = rest.split_at_checked(usize::from(*length)) else { break };
        if *kind == COMMENT {
            return String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
        }
        data = behind;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_survives_and_a_long_one_is_cut_where_a_character_ends() {
        assert_eq!(comment(&user_data("0123456789abcdef")), "0123456789abcdef");
        assert_eq!(comment(&user_data(&"ä".repeat(200))), "ä".repeat(126));
        assert_eq!(comment(&[7, 1, 9, COMMENT, 3, b'h', b'i', 0]), "hi", "behind another field");
    }

    #[test]
    fn nonsense_is_no_comment() {
        for data in [&[][..], &[0], &[0, 200, 1], &[1, 0, 1]] {
            assert_eq!(comment(data), "");
        }
    }
}
