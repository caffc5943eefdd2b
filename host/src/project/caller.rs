//! Calls the plugin for the events of one batch, and adds up the fuel, time and bytes that the calls use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use projector_core::event::Event;
use projector_core::failure::FailureKind;
use projector_model::Contract;
use projector_sandbox::{Answer, Found, Instance, Plugin};

use super::call::checked;
use super::purity::Call;
use super::{FirstAnswer, ProjectError, Respondent, Room};

/// Calls the plugin for a batch, in one instance.
///
/// If a call fails, the event is called again, alone, in a fresh instance. Earlier calls may have used up the batch's
/// instance, for example its memory, and then the event is not the cause. Only the second answer counts.
pub struct Caller<'p> {
    plugin: &'p Plugin,
    /// The batch's instance. `None`: the next call creates one. An instance that trapped is not used again.
    instance: Option<Instance>,
    fuel: u64,
    time: Duration,
    /// The bytes of the answers.
    bytes: usize,
    /// The calls of a batch whose purity is checked, up to as many bytes as the answers of a batch may have. `None`:
    /// purity is not checked.
    calls: Option<Vec<Call>>,
    calls_bytes: usize,
}

impl<'p> Caller<'p> {
    pub fn new(plugin: &'p Plugin) -> Self {
        Self { plugin, instance: None, fuel: 0, time: Duration::ZERO, bytes: 0, calls: None, calls_bytes: 0 }
    }

    /// A caller that keeps its calls, so that the purity check can repeat them.
    pub fn keeping_calls(plugin: &'p Plugin) -> Self {
        Self { calls: Some(Vec::new()), ..Self::new(plugin) }
    }

    pub fn into_calls(self) -> Vec<Call> {
        self.calls.unwrap_or_default()
    }

    fn confirmed(&mut self, event: &Event, found: &[Found]) -> FirstAnswer {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => Instance::new(self.plugin)?,
        };
        let answer = self.counted(&mut instance, event, found);
        if !instance.is_spent() {
            self.instance = Some(instance);
        }
        if answer.is_ok() {
            return answer;
        }
        Instance::new(self.plugin).and_then(|mut alone| self.counted(&mut alone, event, found))
    }

    fn counted(&mut self, instance: &mut Instance, event: &Event, found: &[Found]) -> FirstAnswer {
        let answer = checked(self.plugin, instance, event, found);
        self.fuel = self.fuel.saturating_add(instance.fuel_used());
        answer
    }
}

impl Respondent for Caller<'_> {
    fn contract(&self) -> &Arc<Contract> {
        &self.plugin.contract
    }

    fn call(&mut self, event: &Event, found: &[Found]) -> Result<FirstAnswer, ProjectError> {
        let began = Instant::now();
        let answer = self.confirmed(event, found);
        self.time += began.elapsed();
        self.bytes += answer.as_ref().map_or(0, Answer::size_bytes);
        if let Some(calls) = &mut self.calls
            && self.calls_bytes < self.plugin.limits.batch.bytes
        {
            let call = Call { event: event.clone(), found: found.to_vec(), answer: answer.clone() };
            self.calls_bytes += call.size_bytes();
            calls.push(call);
        }
        match answer {
            Err(failure) if failure.kind == FailureKind::Timeout => {
                Err(ProjectError::Timeout(event.position.clone()))
            }
            answer => Ok(answer),
        }
    }

    /// Counts fuel, time, and the bytes of answers.
    fn has_used(&self, part: f64) -> bool {
        let limits = &self.plugin.limits;
        self.fuel as f64 >= part * limits.batch.fuel as f64
            || self.time >= limits.batch.time.mul_f64(part)
            || self.bytes as f64 >= part * limits.batch.bytes as f64
    }

    fn room(&self) -> Room {
        let limits = &self.plugin.limits;
        Room { of_event: limits.event.found_bytes, of_batch: limits.batch.bytes }
    }
}
