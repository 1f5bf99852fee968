#![allow(
    clippy::disallowed_methods,
    reason = "tests may wait on their own threads"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use super::queue::{Appended, Batch, CAPACITY, FOR_ALLOWED};
use super::*;

const LINE: &[u8; 1024] = &[b'x'; 1024];

fn file(path: &Path, when_full: WhenFull) -> Recorder {
    Recorder::start(&Destination::File(path.to_owned()), when_full, false).unwrap()
}

#[test]
fn a_line_is_in_the_file_within_a_tenth_of_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let recorder = file(&path, WhenFull::Drop);
    let sink = recorder.sink();
    // From the second on, the writer has gone to sleep in between. The shortest of those counts: the machine may have been
    // busy with something else in the others.
    let mut times = Vec::new();
    for round in 1..=6 {
        sink.append(b"line\n", true);
        let started = Instant::now();
        while fs::read(&path).unwrap().len() < 5 * round {
            assert!(started.elapsed() < Duration::from_secs(10), "round {round}");
            thread::sleep(Duration::from_millis(2));
        }
        times.push(started.elapsed());
        thread::sleep(Duration::from_millis(60));
    }
    let shortest = times[1..].iter().min();
    assert!(shortest < Some(&Duration::from_millis(100)), "{times:?}");
}

#[test]
fn lines_of_many_workers_all_arrive_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let recorder = file(&path, WhenFull::Block);
    thread::scope(|scope| {
        for worker in 0..4 {
            let sink = recorder.sink();
            scope.spawn(move || {
                (0..20_000)
                    .for_each(|line| sink.append(format!("{worker} {line}\n").as_bytes(), true))
            });
        }
    });
    assert!(recorder.flush(Duration::from_secs(10)));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 80_000);
    for worker in 0..4 {
        let own = text
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{worker} ")));
        assert!(
            own.map(|line| line.parse::<u32>().unwrap()).eq(0..20_000),
            "worker {worker} in order"
        );
    }
}

#[test]
fn lines_of_a_worker_that_is_gone_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let recorder = file(&path, WhenFull::Drop);
    let sink = recorder.sink();
    sink.append(b"last words\n", true);
    drop(sink);
    assert!(recorder.flush(Duration::from_secs(5)));
    assert_eq!(fs::read(&path).unwrap(), b"last words\n");
}

#[test]
fn denials_have_room_when_allowed_requests_no_longer_do() {
    let queue = Queue::new(WhenFull::Drop);
    let mut allowed = 0;
    while queue.append(LINE, true) != Appended::Dropped {
        allowed += 1;
    }
    assert_eq!(allowed, FOR_ALLOWED / LINE.len());
    let mut denied = 0;
    while queue.append(LINE, false) != Appended::Dropped {
        denied += 1;
    }
    assert_eq!(denied, (CAPACITY - FOR_ALLOWED) / LINE.len());

    let mut batch = Batch::default();
    queue.take(&mut batch);
    assert_eq!(batch.lines, u64::try_from(allowed + denied).unwrap());
    assert_eq!(queue.append(LINE, true), Appended::First);
}

#[test]
fn a_worker_waits_for_room_where_no_record_may_be_lost() {
    let queue = Arc::new(Queue::new(WhenFull::Block));
    for _ in 0..FOR_ALLOWED / LINE.len() {
        queue.append(LINE, true);
    }
    let worker = thread::spawn({
        let queue = Arc::clone(&queue);
        move || queue.append(b"waits", true)
    });
    thread::sleep(Duration::from_millis(50));
    assert!(!worker.is_finished());
    queue.take(&mut Batch::default());
    assert_eq!(worker.join().unwrap(), Appended::First);
}

#[test]
fn a_stalled_log_costs_records_but_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    // Opened for both, so that opening it to write doesn't wait for a reader.
    let mut reader = File::options().read(true).write(true).open(&path).unwrap();
    let recorder = file(&path, WhenFull::Drop);
    let sink = recorder.sink();

    let started = Instant::now();
    let lines = 3 * CAPACITY / LINE.len();
    (0..lines).for_each(|_| sink.append(LINE, true));
    sink.append(b"denied\n", false);
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(!recorder.flush(Duration::from_millis(50)), "nobody reads");

    let drain = thread::spawn(move || {
        let mut text = Vec::new();
        let mut buffer = vec![0; 65536];
        while !text.ends_with(b"denied\n") {
            let read = reader.read(&mut buffer).unwrap();
            text.extend_from_slice(&buffer[..read]);
        }
        text.len()
    });
    let written = drain.join().unwrap();
    assert!(
        written < lines * LINE.len() && written > FOR_ALLOWED / 2,
        "{written}"
    );
}

#[test]
fn a_moved_file_is_opened_anew_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let recorder = file(&path, WhenFull::Drop);
    let sink = recorder.sink();
    sink.append(b"one\n", true);
    assert!(recorder.flush(Duration::from_secs(5)));
    fs::rename(&path, &moved).unwrap();
    recorder.reopen();
    sink.append(b"two\n", true);
    assert!(recorder.flush(Duration::from_secs(5)));
    assert_eq!(fs::read(&moved).unwrap(), b"one\n");
    assert_eq!(fs::read(&path).unwrap(), b"two\n");
}

#[test]
fn what_is_in_the_file_already_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    File::create(&path).unwrap().write_all(b"old\n").unwrap();
    let recorder = file(&path, WhenFull::Drop);
    recorder.sink().append(b"new\n", true);
    assert!(recorder.flush(Duration::from_secs(5)));
    assert_eq!(fs::read(&path).unwrap(), b"old\nnew\n");
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let missing = Destination::File("/nowhere/at/all/log".into());
    let error = Recorder::start(&missing, WhenFull::Drop, false)
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .starts_with("can't open the access log /nowhere/at/all/log: "),
        "{error}"
    );
}
