//! How much is written together: so many rows, and so many bytes.

/// The most bytes of one batch, unless a single item has more: a server takes it in one piece.
pub const BYTES_MAX: usize = 16 << 20;

/// How many of the first items make a batch, by their sizes in bytes. There is at least one, however large, so
/// that work goes on.
pub fn batch_len(sizes: impl IntoIterator<Item = usize>, items_max: usize) -> usize {
    let mut bytes = 0_usize;
    let fits = |(index, size): &(usize, usize)| {
        bytes = bytes.saturating_add(*size);
        *index == 0 || bytes <= BYTES_MAX
    };
    sizes.into_iter().take(items_max).enumerate().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_with_its_items_or_its_bytes() {
        let half = BYTES_MAX / 2;
        for (sizes, items_max, expected) in [
            (&[][..], 10, 0),
            (&[1, 1, 1], 10, 3),
            (&[1, 1, 1], 2, 2),
            (&[half, half, 0, 1], 10, 3),
            (&[half, half + 1], 10, 1),
            (&[BYTES_MAX], 10, 1),
            (&[BYTES_MAX + 1, 1], 10, 1),
            (&[1, BYTES_MAX], 10, 1),
            (&[usize::MAX, usize::MAX], 10, 1),
        ] {
            assert_eq!(batch_len(sizes.iter().copied(), items_max), expected, "{sizes:?}, {items_max}");
        }
    }
}
