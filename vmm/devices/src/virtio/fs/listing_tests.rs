use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

fn directory_of(count: usize) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..count {
        fs::write(directory.path().join(format!("{number:05}")), "").unwrap();
    }
    directory
}

/// A guest that reads one directory, and of each reply takes no more than `takes` entries.
struct Reader<'l> {
    listings: &'l Listings,
    handle: u64,
    directory: File,
    takes: usize,
    offset: u64,
}

impl<'l> Reader<'l> {
    fn new(listings: &'l Listings, handle: u64, path: &Path, takes: usize) -> Self {
        Self { listings, handle, directory: File::open(path).unwrap(), takes, offset: 0 }
    }

    /// The next names, and the offset after each.
    fn read(&mut self) -> Vec<(String, u64)> {
        let mut page = self.listings.read(self.handle, &self.directory, 4096, self.offset).unwrap();
        let mut names = Vec::new();
        while names.len() < self.takes
            && let Some(entry) = page.next()
        {
            self.offset = entry.offset;
            names.push((entry.name.to_str().unwrap().to_owned(), entry.offset));
        }
        names
    }

    fn rest(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let page = self.read();
            if page.is_empty() {
                return names;
            }
            names.extend(page.into_iter().map(|(name, _)| name).filter(|name| !name.starts_with('.')));
        }
    }
}

fn unique(names: &[String]) -> BTreeSet<&String> {
    names.iter().collect()
}

#[test]
fn every_entry_is_listed_once_however_few_are_taken_at_a_time() {
    let directory = directory_of(1000);
    let listings = Listings::default();
    for takes in [1, 7, 25, 1000] {
        let mut reader = Reader::new(&listings, 1, directory.path(), takes);
        let names = reader.rest();
        assert_eq!((names.len(), unique(&names).len()), (1000, 1000), "{takes}");
        listings.close(1);
    }
}

#[test]
fn nothing_is_left_out_when_what_is_listed_is_removed() {
    let directory = directory_of(2500);
    let listings = Listings::default();
    let mut reader = Reader::new(&listings, 1, directory.path(), 30);
    loop {
        let page = reader.read();
        if page.is_empty() {
            break;
        }
        for (name, _) in page.iter().filter(|(name, _)| !name.starts_with('.')) {
            fs::remove_file(directory.path().join(name)).unwrap();
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn rewinding_shows_what_is_new() {
    let directory = directory_of(3);
    let listings = Listings::default();
    let mut reader = Reader::new(&listings, 1, directory.path(), 100);
    assert_eq!(reader.rest().len(), 3);
    fs::write(directory.path().join("new"), "").unwrap();
    reader.offset = 0;
    assert!(reader.rest().contains(&"new".to_owned()));
}

#[test]
fn guest_may_seek_to_where_it_has_been() {
    let directory = directory_of(1000);
    let listings = Listings::default();
    let mut reader = Reader::new(&listings, 1, directory.path(), 10);
    let first = reader.read();
    let second = reader.read();
    reader.rest();
    reader.offset = first.last().unwrap().1;
    assert_eq!(reader.read(), second);
}

#[test]
fn each_open_directory_has_its_own_place() {
    let directory = directory_of(500);
    let listings = Listings::default();
    let mut one = Reader::new(&listings, 1, directory.path(), 10);
    let mut other = Reader::new(&listings, 2, directory.path(), 10);
    one.read();
    assert_eq!(other.rest().len(), 500);
    let mut fresh = Reader::new(&listings, 3, directory.path(), 10);
    fresh.read();
    assert_eq!(one.rest(), fresh.rest());
}

#[test]
fn kept_entries_are_counted() {
    let directory = directory_of(300);
    let listings = Listings::default();
    let mut reader = Reader::new(&listings, 1, directory.path(), 1);
    reader.read();
    let kept = || listings.open.lock().unwrap().kept;
    assert!(kept() > 100);
    reader.rest();
    assert_eq!(kept(), 0);
    reader.offset = 0;
    reader.read();
    listings.close(1);
    assert_eq!(kept(), 0);
}
