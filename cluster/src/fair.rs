//! How what must not be more than so many bytes is divided among those who want them.

/// The largest level so that all sizes, each cut to it, are together at most `most`: who has less than the level keeps all,
/// and those who have more end up with the same. `usize::MAX` where nothing has to be cut.
#[must_use]
pub fn level(mut sizes: Vec<usize>, most: usize) -> usize {
    sizes.sort_unstable();
    let (mut left, mut count) = (most, sizes.len());
    for size in sizes {
        let share = left / count;
        if size > share {
            return share;
        }
        left -= size;
        count -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_little_keeps_it_and_the_others_share_the_rest() {
        assert_eq!(level(vec![], 0), usize::MAX);
        assert_eq!(level(vec![5, 1, 3], 9), usize::MAX);
        assert_eq!(level(vec![100, 1, 3, 50], 24), 10, "1 and 3 stay, 20 are left for two");
        assert_eq!(level(vec![7, 7, 7], 9), 3);
        assert_eq!(level(vec![7, 7], 1), 0);
    }
}
