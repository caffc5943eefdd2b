//! What operators want, as the lanes and supervisors of this host hear of it: the store is asked for all
//! of them together, twice a second.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::store::operator::Wishes;
use crate::store::{Store, StoreError};

const INTERVAL: Duration = Duration::from_millis(500);

type All = Arc<HashMap<i64, Wishes>>;

/// Hears what operators want of a store's projections.
#[derive(Clone)]
pub struct Board(watch::Receiver<All>);

impl Board {
    /// Asks, and begins to ask again and again, for as long as the store is used. A store that does not
    /// answer is asked again; what was heard last holds until then.
    pub async fn open(store: &Arc<dyn Store>) -> Result<Self, StoreError> {
        let (sender, receiver) = watch::channel(ask(&**store).await?);
        let store: Weak<dyn Store> = Arc::downgrade(store);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                let Some(store) = store.upgrade() else { return };
                let asked = tokio::select! {
                    asked = ask(&*store) => asked,
                    () = sender.closed() => return,
                };
                if let Ok(wishes) = asked {
                    sender.send_if_modified(|known| {
                        let changed = **known != *wishes;
                        *known = wishes;
                        changed
                    });
                }
            }
        });
        Ok(Self(receiver))
    }

    /// What is wanted of a generation, as it was heard last.
    pub fn of(&self, generation: i64) -> Wishes {
        self.0.borrow().get(&generation).cloned().unwrap_or_default()
    }

    /// Waits until something else is wanted of some generation. Cancel safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn ask(store: &dyn Store) -> Result<All, StoreError> {
    let wishes = store.wishes().await?;
    Ok(Arc::new(wishes.into_iter().map(|wishes| (wishes.generation, wishes)).collect()))
}
