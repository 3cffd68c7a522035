//! The CNI specification's vocabulary: its versions and its verbs. The result of ADD lives in [`crate::edge::result`],
//! what a verb does in its own file.

/// A version of the specification. All are spoken. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.1.0: ADD and DEL; one address of each family, in `ip4` and `ip6`.
    V0_1_0,
    /// 0.2.0: VERSION.
    V0_2_0,
    /// 0.3.0: lists of interfaces, addresses and routes; `prevResult` in ADD.
    V0_3_0,
    /// 0.3.1: the same with a corrected text.
    V0_3_1,
    /// 0.4.0: CHECK, `prevResult` in DEL.
    V0_4_0,
    /// 1.0.0: no `version` in `ips`.
    V1_0_0,
    /// 1.1.0: GC, STATUS, more about interfaces and routes.
    V1_1_0,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// What a configuration without `cniVersion` means.
    pub const OLDEST: Self = Self::V0_1_0;
    /// In which the plugin answers when it does not know the caller's.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it stands in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

/// What a runtime can ask for: `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container to the network.
    Add,
    /// Detach it.
    Del,
    /// Is it attached as ADD said?
    Check,
    /// Could ADD be served?
    Status,
    /// Remove what belongs to no attachment.
    Gc,
    /// Which versions are spoken?
    Version,
}

impl Verb {
    /// All.
    pub const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version];

    /// As it stands in `CNI_COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    /// The verb of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }

    /// The version of the specification that brought it. VERSION is older than any configuration that could forbid it.
    pub const fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::OLDEST,
            Self::Check => Version::V0_4_0,
            Self::Status | Self::Gc => Version::V1_1_0,
        }
    }

    /// The variables beside `CNI_COMMAND` that it cannot do without (section 2, "Parameters").
    pub const fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Status | Self::Gc | Self::Version => &[],
        }
    }
}
