//! Users and rights (ACLs) on a running broker, which rdkafka's safe interface does not reach.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::bindings as native;
use rdkafka::client::DefaultClientContext;

const PATIENCE_MS: i32 = 20_000;

/// What a right is on.
#[derive(Debug, Clone, Copy)]
pub enum Resource<'a> {
    Topic(&'a str),
    /// Every topic whose name begins like this.
    TopicsFrom(&'a str),
    Group(&'a str),
    /// Every group whose name begins like this.
    GroupsFrom(&'a str),
    Cluster,
}

/// What a right allows, by Kafka's names. `Read` and `Write` imply `Describe`.
#[derive(Debug, Clone, Copy)]
pub enum Right {
    Read,
    Write,
    Describe,
    All,
}

/// A client on the broker's plain listener, whose user may do everything.
pub(super) struct Administrator {
    client: AdminClient<DefaultClientContext>,
}

impl Administrator {
    pub(super) fn new(bootstrap: &str) -> Result<Administrator> {
        let client = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
        Ok(Administrator { client })
    }

    /// Lets a user do something, from any host.
    pub(super) fn grant(&self, user: &str, right: Right, resource: Resource<'_>) -> Result<()> {
        let acl = Acl::new(user, right, resource)?;
        // SAFETY: `binding` is destroyed below, and not used after that.
        unsafe {
            let mut binding = acl.binding(native::rd_kafka_AclBinding_new)?;
            let done = self.ask(
                |client, queue| native::rd_kafka_CreateAcls(client, &mut binding, 1, ptr::null(), queue),
                |event| {
                    let mut count = 0;
                    let results = native::rd_kafka_CreateAcls_result_acls(
                        native::rd_kafka_event_CreateAcls_result(event),
                        &mut count,
                    );
                    (0..count).map(|at| native::rd_kafka_acl_result_error(*results.add(at))).collect()
                },
            );
            native::rd_kafka_AclBinding_destroy(binding);
            done
        }
        .with_context(|| format!("{right:?} on {resource:?} is not granted to {user}"))
    }

    /// Takes a right away that was granted in the same words.
    pub(super) fn revoke(&self, user: &str, right: Right, resource: Resource<'_>) -> Result<()> {
        let acl = Acl::new(user, right, resource)?;
        // SAFETY: `filter` is destroyed below, and not used after that.
        unsafe {
            let mut filter = acl.binding(native::rd_kafka_AclBindingFilter_new)?;
            let done = self.ask(
                |client, queue| native::rd_kafka_DeleteAcls(client, &mut filter, 1, ptr::null(), queue),
                |_| Vec::new(),
            );
            native::rd_kafka_AclBinding_destroy(filter);
            done
        }
        .with_context(|| format!("{right:?} on {resource:?} is not taken from {user}"))
    }

    /// Creates a SCRAM user, or gives one another password: for both mechanisms, one after the other, since
    /// one request may not alter a user twice.
    pub(super) fn set_scram(&self, user: &str, password: &str) -> Result<()> {
        use native::rd_kafka_ScramMechanism_t as Mechanism;
        const ITERATIONS: i32 = 4096;
        let name = CString::new(user)?;
        for mechanism in
            [Mechanism::RD_KAFKA_SCRAM_MECHANISM_SHA_256, Mechanism::RD_KAFKA_SCRAM_MECHANISM_SHA_512]
        {
            // SAFETY: name and password outlive the calls, which copy them; what is made is destroyed below.
            unsafe {
                let mut alteration = native::rd_kafka_UserScramCredentialUpsertion_new(
                    name.as_ptr(),
                    mechanism,
                    ITERATIONS,
                    password.as_ptr(),
                    password.len(),
                    ptr::null(),
                    0,
                );
                let done = self.ask(
                    |client, queue| {
                        native::rd_kafka_AlterUserScramCredentials(
                            client,
                            &mut alteration,
                            1,
                            ptr::null(),
                            queue,
                        )
                    },
                    |event| {
                        let mut count = 0;
                        let responses = native::rd_kafka_AlterUserScramCredentials_result_responses(
                            native::rd_kafka_event_AlterUserScramCredentials_result(event),
                            &mut count,
                        );
                        let error = native::rd_kafka_AlterUserScramCredentials_result_response_error;
                        (0..count).map(|at| error(*responses.add(at))).collect()
                    },
                );
                native::rd_kafka_UserScramCredentialAlteration_destroy(alteration);
                done
            }
            .with_context(|| format!("user {user} gets no password"))?;
        }
        Ok(())
    }

    /// Sends a question, and waits for its answer and the errors in it.
    fn ask(
        &self,
        send: impl FnOnce(*mut native::rd_kafka_t, *mut native::rd_kafka_queue_t),
        errors: impl FnOnce(*mut native::rd_kafka_event_t) -> Vec<*const native::rd_kafka_error_t>,
    ) -> Result<()> {
        let client = self.client.inner().native_ptr();
        // SAFETY: client and queue are alive during the calls; the answer is read before it is destroyed.
        unsafe {
            let queue = native::rd_kafka_queue_new(client);
            send(client, queue);
            let event = native::rd_kafka_queue_poll(queue, PATIENCE_MS);
            let mut problems = Vec::new();
            if event.is_null() {
                problems.push("no answer in time".to_owned());
            } else {
                let none = native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
                if native::rd_kafka_event_error(event) != none {
                    problems.push(text(native::rd_kafka_event_error_string(event)));
                } else {
                    let failed = |error: &*const native::rd_kafka_error_t| {
                        !error.is_null() && native::rd_kafka_error_code(*error) != none
                    };
                    let errors = errors(event).into_iter().filter(failed);
                    problems.extend(errors.map(|error| text(native::rd_kafka_error_string(error))));
                }
                native::rd_kafka_event_destroy(event);
            }
            native::rd_kafka_queue_destroy(queue);
            ensure!(problems.is_empty(), "{}", problems.join("; "));
        }
        Ok(())
    }
}

/// How librdkafka makes a right to be granted, or a filter for rights.
type NewBinding = unsafe extern "C" fn(
    native::rd_kafka_ResourceType_t,
    *const c_char,
    native::rd_kafka_ResourcePatternType_t,
    *const c_char,
    *const c_char,
    native::rd_kafka_AclOperation_t,
    native::rd_kafka_AclPermissionType_t,
    *mut c_char,
    usize,
) -> *mut native::rd_kafka_AclBinding_t;

/// A right in librdkafka's words.
struct Acl {
    kind: native::rd_kafka_ResourceType_t,
    pattern: native::rd_kafka_ResourcePatternType_t,
    name: CString,
    principal: CString,
    operation: native::rd_kafka_AclOperation_t,
}

impl Acl {
    /// The caller destroys what it returns, which is not null.
    fn binding(&self, new: NewBinding) -> Result<*mut native::rd_kafka_AclBinding_t> {
        let mut reason = [0; 256];
        let allow = native::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW;
        // SAFETY: all strings outlive the call, which copies them.
        unsafe {
            let binding = new(
                self.kind,
                self.name.as_ptr(),
                self.pattern,
                self.principal.as_ptr(),
                c"*".as_ptr(),
                self.operation,
                allow,
                reason.as_mut_ptr(),
                reason.len(),
            );
            ensure!(!binding.is_null(), "{}", text(reason.as_ptr()));
            Ok(binding)
        }
    }

    fn new(user: &str, right: Right, resource: Resource<'_>) -> Result<Acl> {
        use native::rd_kafka_AclOperation_t as Operation;
        use native::rd_kafka_ResourcePatternType_t as Pattern;
        use native::rd_kafka_ResourceType_t as Kind;
        let (literal, prefixed) =
            (Pattern::RD_KAFKA_RESOURCE_PATTERN_LITERAL, Pattern::RD_KAFKA_RESOURCE_PATTERN_PREFIXED);
        let (kind, pattern, name) = match resource {
            Resource::Topic(name) => (Kind::RD_KAFKA_RESOURCE_TOPIC, literal, name),
            Resource::TopicsFrom(prefix) => (Kind::RD_KAFKA_RESOURCE_TOPIC, prefixed, prefix),
            Resource::Group(name) => (Kind::RD_KAFKA_RESOURCE_GROUP, literal, name),
            Resource::GroupsFrom(prefix) => (Kind::RD_KAFKA_RESOURCE_GROUP, prefixed, prefix),
            // What librdkafka calls broker has the number that the protocol gives the cluster.
            Resource::Cluster => (Kind::RD_KAFKA_RESOURCE_BROKER, literal, "kafka-cluster"),
        };
        Ok(Acl {
            kind,
            pattern,
            name: CString::new(name)?,
            principal: CString::new(format!("User:{user}"))?,
            operation: match right {
                Right::Read => Operation::RD_KAFKA_ACL_OPERATION_READ,
                Right::Write => Operation::RD_KAFKA_ACL_OPERATION_WRITE,
                Right::Describe => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE,
                Right::All => Operation::RD_KAFKA_ACL_OPERATION_ALL,
            },
        })
    }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
