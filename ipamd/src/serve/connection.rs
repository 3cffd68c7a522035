//! Hands the calls that come over the socket to the writer. `ferrule_daemon` does the talking with the callers.

use crate::decide::service::{Answer, PAGE, ServiceRequest};
use crate::serve::writer::Handle;
use ferrule_daemon::varlink::{Caller, EndError, Service};
use ferrule_netlink::NamespaceId;
use ferrule_wire::{Call, CallError, DEFINITION, INTERFACE};
use std::time::Duration;

impl Service for Handle {
    type Call = Call;
    const PRODUCT: &'static str = "ipamd";
    const INTERFACE: &'static str = INTERFACE;
    const DEFINITION: &'static str = DEFINITION;

    async fn serve(&self, caller: &mut Caller, request: ferrule_wire::Incoming) -> Result<(), EndError> {
        let silent = request.oneway;
        let (request, patience) = match request.call {
            Call::List(_) if silent || !request.more => {
                return if silent { Ok(()) } else { caller.fail(&CallError::ExpectedMore {}).await };
            }
            Call::List(_) => return self.list(caller).await,
            Call::Resting(_) if silent || !request.more => {
                return if silent { Ok(()) } else { caller.fail(&CallError::ExpectedMore {}).await };
            }
            Call::Resting(call) => return self.resting(caller, call.pool).await,
            // A caller that hung up will not use the lease, and may have queued its release already.
            Call::Allocate(_) if caller.has_hung_up() => return Ok(()),
            Call::Allocate(call) => {
                self.called_from(caller);
                let patience = call.deadline_ms.map(Duration::from_millis);
                (ServiceRequest::Allocate(call), patience)
            }
            Call::Release(call) => (ServiceRequest::Release(call.attachment), None),
            Call::Check(call) => (ServiceRequest::Check(call), None),
            Call::Status(call) => (ServiceRequest::Status(call), None),
            Call::Collect(call) => (ServiceRequest::Collect(call), None),
            Call::Pools(_) => (ServiceRequest::Pools, None),
        };
        match self.ask(request, patience).await {
            Ok(answer) => caller.succeed(&answer, silent).await,
            Err(_) if silent => Ok(()),
            Err(error) => caller.fail(&error).await,
        }
    }

    fn refused(&self) {
        self.metrics().refused();
    }
}

impl Handle {
    /// Remembers the network namespace that the plugin calls from: it makes the link there. An older kernel does not
    /// tell the namespace; then nothing is remembered.
    fn called_from(&self, caller: &Caller) {
        if let Ok(namespace) = NamespaceId::of(caller) {
            self.home().called_from(namespace);
        }
    }

    /// All leases, one page in each message. Each page continues where the page before ended.
    async fn list(&self, caller: &mut Caller) -> Result<(), EndError> {
        let mut after = None;
        loop {
            let page = match self.ask(ServiceRequest::Leases { after }, None).await {
                Ok(Answer::Leases(page)) => page,
                Ok(_) => return Ok(()),
                Err(error) => return caller.fail(&error).await,
            };
            after = page.leases.last().map(|lease| lease.attachment.clone());
            let continues = page.leases.len() == PAGE;
            caller.page(&page, continues).await?;
            if !continues {
                return Ok(());
            }
        }
    }

    /// All resting addresses, one page in each message.
    async fn resting(&self, caller: &mut Caller, pool: Option<String>) -> Result<(), EndError> {
        let mut after = None;
        loop {
            let page = match self.ask(ServiceRequest::Resting { pool: pool.clone(), after }, None).await {
                Ok(Answer::Resting(page)) => page,
                Ok(_) => return Ok(()),
                Err(error) => return caller.fail(&error).await,
            };
            after = page.last;
            let continues = page.reply.addresses.len() == PAGE;
            caller.page(&page.reply, continues).await?;
            if !continues {
                return Ok(());
            }
        }
    }
}
