//! Queueing disciplines and filters as netlink messages: `linux/pkt_sched.h`, `linux/pkt_cls.h` and
//! `linux/tc_act/tc_mirred.h`. The packet crate has no token bucket.

use ferrule_model::{Bucket, IfIndex};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE, NlasIterator};

use crate::attributes::{append, nested};
use crate::socket::{Message, Request};

const NEWQDISC: u16 = 36;
const DELQDISC: u16 = 37;
const GETQDISC: u16 = 38;
const NEWTFILTER: u16 = 44;
const GETTFILTER: u16 = 46;

/// `struct tcmsg`.
const HEADER_LEN: usize = 20;
/// `TC_H_ROOT`, `TC_H_INGRESS`, and the number by which tc(8) knows the ingress discipline.
const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const TBF_HANDLE: u32 = 0x0001_0000;
/// `ETH_P_ALL` in network byte order in the lower half, the filter's place in the upper.
const EVERY_PACKET: u32 = 1 << 16 | (0x0003_u16.to_be() as u32);

const KIND: u16 = 1;
const OPTIONS: u16 = 2;

/// `TCA_TBF_*`, and `struct tc_tbf_qopt`: two rates, limit, buffer, mtu.
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
const TBF_PARMS_LEN: usize = 36;
const TBF_RATE_AT: usize = 8;
const TBF_LIMIT_AT: usize = 24;
/// `TC_LINKLAYER_ETHERNET`: no table of transmission times is needed.
const ETHERNET: u8 = 1;

/// `TCA_U32_*`: `struct tc_u32_sel` with one key that matches everything.
const U32_SEL: u16 = 5;
const U32_ACT: u16 = 7;
const U32_TERMINAL: u8 = 1;
/// `TCA_ACT_*` and `TCA_MIRRED_PARMS`.
const ACT_KIND: u16 = 1;
const ACT_OPTIONS: u16 = 2;
const MIRRED_PARMS: u16 = 2;
/// `struct tc_mirred`: index, capabilities, action, two counts, what it does, where to.
const MIRRED_LEN: usize = 28;
const MIRRED_LINK_AT: usize = 24;
/// `TC_ACT_STOLEN`, `TCA_EGRESS_REDIR`.
const STOLEN: u32 = 4;
const EGRESS_REDIR: u32 = 1;

pub(super) fn limit(link: IfIndex, tbf: Bucket) -> Request {
    let rate = u32::try_from(tbf.rate).unwrap_or(u32::MAX);
    let mut parms = vec![0; TBF_PARMS_LEN];
    parms[1] = ETHERNET;
    parms[TBF_RATE_AT..TBF_RATE_AT + 4].copy_from_slice(&rate.to_ne_bytes());
    parms[TBF_LIMIT_AT..TBF_LIMIT_AT + 4].copy_from_slice(&tbf.limit().to_ne_bytes());
    let mut options =
        vec![DefaultNla::new(TBF_PARMS, parms), DefaultNla::new(TBF_BURST, tbf.burst.to_ne_bytes().to_vec())];
    if tbf.rate >= u64::from(u32::MAX) {
        options.push(DefaultNla::new(TBF_RATE64, tbf.rate.to_ne_bytes().to_vec()));
    }
    let mut payload = header(link, TBF_HANDLE, ROOT, 0);
    append(&mut payload, &[text(KIND, "tbf"), nested(OPTIONS, &options)]);
    Request { kind: NEWQDISC, flags: NLM_F_CREATE | NLM_F_REPLACE, payload }
}

/// Removes the ingress discipline, with its filters.
pub(super) fn no_ingress(link: IfIndex) -> Request {
    Request { kind: DELQDISC, flags: 0, payload: header(link, INGRESS_HANDLE, INGRESS, 0) }
}

pub(super) fn no_limit(link: IfIndex) -> Request {
    Request { kind: DELQDISC, flags: 0, payload: header(link, TBF_HANDLE, ROOT, 0) }
}

pub(super) fn ingress(link: IfIndex) -> Request {
    let mut payload = header(link, INGRESS_HANDLE, INGRESS, 0);
    append(&mut payload, &[text(KIND, "ingress")]);
    Request { kind: NEWQDISC, flags: NLM_F_CREATE, payload }
}

/// Uses the classifier that every kernel has, `u32`, with one key that matches every packet.
pub(super) fn redirect(from: IfIndex, to: IfIndex) -> Request {
    let mut mirred = vec![0; MIRRED_LEN];
    mirred[8..12].copy_from_slice(&STOLEN.to_ne_bytes());
    mirred[20..24].copy_from_slice(&EGRESS_REDIR.to_ne_bytes());
    mirred[MIRRED_LINK_AT..].copy_from_slice(&to.0.to_ne_bytes());
    let action = [text(ACT_KIND, "mirred"), nested(ACT_OPTIONS, &[DefaultNla::new(MIRRED_PARMS, mirred)])];
    // flags, offset shift, keys; then the key: mask, value, offset, mask of that.
    let mut selector = vec![0; 32];
    selector[0] = U32_TERMINAL;
    selector[2] = 1;
    let options = [DefaultNla::new(U32_SEL, selector), nested(U32_ACT, &[nested(1, &action)])];
    let mut payload = header(from, 0, INGRESS_HANDLE, EVERY_PACKET);
    append(&mut payload, &[text(KIND, "u32"), nested(OPTIONS, &options)]);
    Request { kind: NEWTFILTER, flags: NLM_F_CREATE | NLM_F_EXCL, payload }
}

/// The answer is a notification (`qdisc_notify`). The kernel sends it to the asking socket only on demand.
pub(super) fn root_of(link: IfIndex) -> Request {
    Request { kind: GETQDISC, flags: NLM_F_ECHO, payload: header(link, 0, ROOT, 0) }
}

pub(super) fn filters_of(link: IfIndex) -> Request {
    Request { kind: GETTFILTER, flags: 0, payload: header(link, 0, INGRESS_HANDLE, 0) }
}

/// The token bucket in a message about a discipline.
pub(super) fn parse_tbf(message: &Message) -> Option<Bucket> {
    let attributes = message.payload.get(HEADER_LEN..)?;
    if find(attributes, KIND)?.as_slice() != b"tbf\0" {
        return None;
    }
    let options = find(attributes, OPTIONS)?;
    let parms = find(&options, TBF_PARMS)?;
    let rate64 = find(&options, TBF_RATE64).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    let rate = rate64.unwrap_or(number(&parms, TBF_RATE_AT)?.into());
    Some(Bucket::from_limit(rate, number(&parms, TBF_LIMIT_AT)?))
}

/// The link to which the filter in a message redirects.
pub(super) fn parse_redirect(message: &Message) -> Option<IfIndex> {
    let options = find(message.payload.get(HEADER_LEN..)?, OPTIONS)?;
    let action = find(&find(&options, U32_ACT)?, 1)?;
    if find(&action, ACT_KIND)?.as_slice() != b"mirred\0" {
        return None;
    }
    let parms = find(&find(&action, ACT_OPTIONS)?, MIRRED_PARMS)?;
    number(&parms, MIRRED_LINK_AT).map(IfIndex)
}

fn header(link: IfIndex, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for field in [link.0, handle, parent, info] {
        header.extend_from_slice(&field.to_ne_bytes());
    }
    header
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), &[0]].concat())
}

fn find(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut attributes = NlasIterator::new(attributes).filter_map(Result::ok);
    attributes.find(|attribute| attribute.kind() == kind).map(|attribute| attribute.value().to_vec())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
}
