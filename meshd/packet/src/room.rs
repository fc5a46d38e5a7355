//! Where packets from the TUN lie while they wait for their turn: a fixed number of places, large and small.
//!
//! Strategy: a packet is read into a large place; a short one moves on into a small place, so that many of them fit. The place
//! freed last is used next: it is the one in the cache, and memory that was never needed is never touched.

use meshd_os::offload::VNET_LEN;

/// Super-packets that wait: more than flows are allowed to let wait ([`super::pressure`]), so that the TUN can be emptied and its
/// queue, which is one for all, stays short.
const LARGE: usize = 32;
/// Packets of up to [`SMALL_LEN`] bytes that wait.
const SMALL: usize = 256;
/// The largest packet and its virtio header.
const LARGE_LEN: usize = VNET_LEN + 65536;
/// A plain packet of a usual MTU and its virtio header.
const SMALL_LEN: usize = 2048;

/// See the file's head. Numbers below [`LARGE`] are large places.
#[derive(Debug)]
pub(super) struct Room {
    large: Vec<u8>,
    small: Vec<u8>,
    lens: Vec<u32>,
    free_large: Vec<u16>,
    free_small: Vec<u16>,
}

impl Room {
    /// How many places there are.
    pub const PLACES: u16 = (LARGE + SMALL) as u16;

    /// All places free.
    pub fn new() -> Self {
        Self {
            // Zeroed pages cost memory when a packet lands there.
            large: vec![0; LARGE * LARGE_LEN],
            small: vec![0; SMALL * SMALL_LEN],
            lens: vec![0; LARGE + SMALL],
            free_large: (0..LARGE as u16).rev().collect(),
            free_small: (LARGE as u16..Self::PLACES).rev().collect(),
        }
    }

    /// Room to read the next packet into, of any length; `None` when there is none.
    pub fn landing(&mut self) -> Option<&mut [u8]> {
        let place = usize::from(*self.free_large.last()?);
        let _room_to_move_on = self.free_small.last()?;
        Some(&mut self.large[place * LARGE_LEN..][..LARGE_LEN])
    }

    /// Keeps the `len` bytes that [`Room::landing`] was filled with, and says where. `None` when there was no landing.
    pub fn keep(&mut self, len: usize) -> Option<u16> {
        let place = if len <= SMALL_LEN {
            let landing = usize::from(*self.free_large.last()?) * LARGE_LEN;
            let place = self.free_small.pop()?;
            let at = (usize::from(place) - LARGE) * SMALL_LEN;
            self.small[at..at + len].copy_from_slice(&self.large[landing..landing + len]);
            place
        } else {
            self.free_large.pop()?
        };
        self.lens[usize::from(place)] = len as u32;
        Some(place)
    }

    /// The packet in `place`.
    pub fn packet(&mut self, place: u16) -> &mut [u8] {
        let place = usize::from(place);
        let len = self.lens[place] as usize;
        match place.checked_sub(LARGE) {
            None => &mut self.large[place * LARGE_LEN..][..len],
            Some(small) => &mut self.small[small * SMALL_LEN..][..len],
        }
    }

    /// Gives `place` back, which [`Room::keep`] gave out.
    pub fn free(&mut self, place: u16) {
        if usize::from(place) < LARGE {
            self.free_large.push(place);
        } else {
            self.free_small.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(room: &mut Room, len: usize, with: u8) -> Option<u16> {
        room.landing()?[..len].fill(with);
        room.keep(len)
    }

    #[test]
    fn packets_of_all_lengths_lie_apart_until_there_is_no_room() {
        let mut room = Room::new();
        let lens = [0, 1, 94, SMALL_LEN, SMALL_LEN + 1, LARGE_LEN];
        let places: Vec<_> = (1u8..)
            .zip(lens)
            .map(|(with, len)| put(&mut room, len, with).unwrap())
            .collect();
        for ((with, len), place) in (1u8..).zip(lens).zip(&places) {
            assert!(room.packet(*place) == vec![with; len], "{len}");
        }
        let more = std::iter::from_fn(|| put(&mut room, LARGE_LEN, 9)).count();
        assert_eq!(more, LARGE - 2);
        assert_eq!(put(&mut room, 20, 1), None, "nowhere to read it into");
        room.free(places[5]);
        let more = std::iter::from_fn(|| put(&mut room, 20, 9)).count();
        assert_eq!(more, SMALL - 4);
        assert_eq!(
            put(&mut room, LARGE_LEN, 1),
            None,
            "it might be a short one"
        );
    }

    #[test]
    fn the_place_freed_last_is_used_next() {
        let mut room = Room::new();
        let (a, _b) = (
            put(&mut room, 20, 1).unwrap(),
            put(&mut room, 20, 2).unwrap(),
        );
        room.free(a);
        assert_eq!(put(&mut room, 30, 3), Some(a));
        assert_eq!(room.packet(a), [3; 30]);
    }
}
