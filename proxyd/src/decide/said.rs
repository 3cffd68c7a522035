//! What the log has said, so that it says it once.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Complaint, ServiceName};

/// The complaints about each Service that have been logged and still hold.
#[derive(Debug, Default)]
pub struct Said {
    said: HashMap<Arc<ServiceName>, Vec<Complaint>>,
}

impl Said {
    /// Takes the complaints about a Service as they are now. Returns those that are to be logged: a complaint is news
    /// if the Service did not have it before. If it ends and comes back, it is news again.
    pub fn news(&mut self, service: &Arc<ServiceName>, now: Vec<Complaint>) -> Vec<Complaint> {
        let before = self.said.remove(service).unwrap_or_default();
        let news = now.iter().filter(|complaint| !before.contains(complaint)).cloned().collect();
        if !now.is_empty() {
            self.said.insert(Arc::clone(service), now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_said_once_for_as_long_as_it_holds() {
        let service = Arc::new(ServiceName { namespace: "default".into(), name: "web".into() });
        let other = Arc::new(ServiceName { namespace: "default".into(), name: "other".into() });
        let (one, two) = (Complaint::NoHealthCheckPort, Complaint::NotServable([127, 0, 0, 1].into()));
        let mut said = Said::default();
        assert_eq!(said.news(&service, vec![one.clone()]).len(), 1);
        assert_eq!(said.news(&service, vec![one.clone(), two.clone()]), [two]);
        assert_eq!(said.news(&other, vec![one.clone()]).len(), 1);
        assert_eq!(said.news(&service, vec![]), []);
        assert_eq!(said.news(&service, vec![one.clone()]), [one]);
        said.news(&service, vec![]);
        said.news(&other, vec![]);
        assert!(said.said.is_empty(), "nothing is kept of Services without complaints");
    }
}
