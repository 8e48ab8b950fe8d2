//! **P** Count, digest and compress into independent frames.
//!
//! [`Encoder::push`] fills a block; a full one goes to one of two blocking threads, and its frame comes back in order.
//! Memory is bounded by construction (see [`super`]): a third block waits until the first one's frame is out.

use super::seek_table::{FrameSize, SeekTable};
use super::{Measure, Tally};
use crate::error::{Failure, Reason};
use bytes::Bytes;
use std::collections::VecDeque;
use tokio::task::JoinHandle;
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

/// Raw bytes in a frame; the reasons are in [`super`].
pub const FRAME_SIZE: usize = 2 * 1024 * 1024;
/// Frames that are compressed at the same time. More threads than two would outrun every destination that we measured.
pub const WORKERS: usize = 2;

/// What one thread works with, and the next one after it. Memory of this size that is given back and asked for again costs
/// the kernel's time: for a copy of 693 MiB the operator took 2.99 s of CPU with it, and 2.55 s without.
struct Worker {
    block: Vec<u8>,
    /// With room for the worst case; what it holds is copied out at its true size, since many frames wait in a part of an
    /// upload.
    frame: Vec<u8>,
    compressor: Compressor<'static>,
}

impl Worker {
    fn new(level: i32) -> Result<Self, Failure> {
        let mut compressor = Compressor::new(level).map_err(|e| internal(&e))?;
        // Frames name their size and carry a checksum.
        compressor.include_checksum(true).map_err(|e| internal(&e))?;
        compressor.include_contentsize(true).map_err(|e| internal(&e))?;
        let frame = Vec::with_capacity(compress_bound(FRAME_SIZE));
        Ok(Self { block: Vec::with_capacity(FRAME_SIZE), frame, compressor })
    }

    fn compress(&mut self) -> Result<Bytes, Failure> {
        self.compressor.compress_to_buffer(&self.block, &mut self.frame).map_err(|e| internal(&e))?;
        Ok(Bytes::copy_from_slice(&self.frame))
    }
}

/// Raw bytes in, frames out.
pub struct Encoder {
    level: i32,
    block: Vec<u8>,
    at_work: VecDeque<JoinHandle<Result<(Bytes, Worker), Failure>>>,
    idle: Vec<Worker>,
    table: SeekTable,
    raw: Tally,
}

impl Encoder {
    /// An encoder for this zstd level. The level is not checked here; zstd cuts it to what it has.
    pub fn new(level: i32) -> Self {
        Self {
            level,
            block: Vec::with_capacity(FRAME_SIZE),
            at_work: VecDeque::with_capacity(WORKERS),
            idle: Vec::with_capacity(WORKERS),
            table: SeekTable::default(),
            raw: Tally::default(),
        }
    }

    /// Raw bytes so far.
    pub const fn raw_size(&self) -> u64 {
        self.raw.size()
    }

    /// Takes raw bytes in and gives the frames that are ready, in order. Waits while both threads are busy. An encoder
    /// whose future was dropped must not be used again.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Bytes>, Failure> {
        self.raw.add(bytes);
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let take = bytes.len().min(FRAME_SIZE - self.block.len());
            self.block.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.block.len() == FRAME_SIZE {
                frames.extend(self.send_block().await?);
            }
        }
        Ok(frames)
    }

    /// The last frames and the seek table, and what went in. The stored bytes are measured by
    /// whoever stores them, object by object.
    pub async fn finish(mut self) -> Result<(Vec<Bytes>, Measure), Failure> {
        let mut frames = Vec::new();
        if !self.block.is_empty() {
            frames.extend(self.send_block().await?);
        }
        while !self.at_work.is_empty() {
            frames.extend(self.oldest().await?);
        }
        frames.push(Bytes::from(self.table.to_bytes()?));
        Ok((frames, self.raw.measure()))
    }

    /// Gives the block to a thread; before that, waits for the oldest frame if both are busy.
    async fn send_block(&mut self) -> Result<Option<Bytes>, Failure> {
        let ready = if self.at_work.len() == WORKERS { self.oldest().await? } else { None };
        let mut worker = self.idle.pop().map_or_else(|| Worker::new(self.level), Ok)?;
        std::mem::swap(&mut self.block, &mut worker.block);
        self.at_work.push_back(tokio::task::spawn_blocking(move || Ok((worker.compress()?, worker))));
        Ok(ready)
    }

    /// Waits for the oldest block's frame.
    async fn oldest(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(task) = self.at_work.front_mut() else { return Ok(None) };
        let done = task.await;
        self.at_work.pop_front();
        let (frame, mut worker) =
            done.map_err(|_| Failure::new(Reason::Internal, "a compression thread ended early"))??;
        let size = |n: usize| u32::try_from(n).map_err(|e| internal(&e));
        self.table.push(FrameSize { stored: size(frame.len())?, raw: size(worker.block.len())? });
        worker.block.clear();
        self.idle.push(worker);
        Ok(Some(frame))
    }
}

fn internal(error: &dyn std::error::Error) -> Failure {
    Failure::new(Reason::Internal, format!("compression failed: {error}. Please report it"))
}
