//! A private Redis lives, dies and comes back as it was told.

use std::time::{Duration, Instant};

use postroad_testkit::redis::{Fsync, PrivateRedis, Reply};

#[tokio::test]
async fn it_answers_and_dies_with_its_value() {
    let redis = PrivateRedis::start().await.unwrap();
    assert_eq!(redis.url(), format!("redis://127.0.0.1:{}", redis.port()));
    assert_eq!(redis.command(&["SET", "k", "v"]).await.unwrap(), Reply::Status("OK".to_owned()));
    assert_eq!(redis.command(&["GET", "k"]).await.unwrap(), Reply::Bulk("v".into()));
    let pid = redis.command(&["INFO", "server"]).await.unwrap().info("process_id").unwrap();
    assert_eq!(pid, redis.pid().to_string());
    let (addr, directory) = (redis.addr(), redis.data_directory().to_owned());
    drop(redis);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    assert!(!directory.exists());
}

#[tokio::test]
async fn refusals_are_errors_with_redis_words() {
    let redis = PrivateRedis::builder().maxmemory_bytes(1).start().await.unwrap();
    let error = redis.command(&["SET", "k", "v"]).await.unwrap_err().to_string();
    assert!(error.starts_with("Redis refuses SET: OOM "), "{error}");
}

#[tokio::test]
async fn an_append_only_file_survives_a_kill() {
    let redis = PrivateRedis::builder().append_only(Fsync::Always).start().await.unwrap();
    redis.command(&["RPUSH", "list", "a", "b"]).await.unwrap();
    let first = redis.pid();
    redis.kill().unwrap();
    let error = format!("{:#}", redis.command(&["PING"]).await.unwrap_err());
    assert!(error.contains("cannot connect") && error.contains("Ready to accept connections"), "{error}");
    redis.restart().await.unwrap();
    assert_ne!(redis.pid(), first);
    assert_eq!(redis.command(&["LLEN", "list"]).await.unwrap().int(), Some(2));
    // And once more, with a proper shutdown.
    redis.restart().await.unwrap();
    let list = redis.command(&["LRANGE", "list", "0", "-1"]).await.unwrap();
    assert_eq!(list.items(), [Reply::Bulk("a".into()), Reply::Bulk("b".into())]);
}

#[tokio::test]
async fn without_one_a_restart_finds_nothing() {
    let redis = PrivateRedis::start().await.unwrap();
    redis.command(&["SET", "k", "v"]).await.unwrap();
    assert!(redis.shutdown().await.unwrap().success());
    redis.restart().await.unwrap();
    assert_eq!(redis.command(&["GET", "k"]).await.unwrap(), Reply::Nil);
}

#[tokio::test]
async fn frozen_it_is_silent_and_then_goes_on() {
    let redis = PrivateRedis::start().await.unwrap();
    redis.stop_signal().unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(200), redis.command(&["PING"])).await;
    assert!(silence.is_err());
    redis.cont().unwrap();
    assert_eq!(redis.command(&["PING"]).await.unwrap(), Reply::Status("PONG".to_owned()));
    redis.stop_signal().unwrap();
    let begin = Instant::now();
    drop(redis);
    assert!(begin.elapsed() < Duration::from_secs(2), "a frozen one dies at once");
}

#[tokio::test]
async fn a_password_is_asked_for_and_in_the_url() {
    let redis = PrivateRedis::builder().password("sesame").start().await.unwrap();
    assert_eq!(redis.url(), format!("redis://:sesame@127.0.0.1:{}", redis.port()));
    assert_eq!(redis.command(&["DBSIZE"]).await.unwrap(), Reply::Int(0));
}

#[tokio::test]
async fn another_can_start_on_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let settings = PrivateRedis::builder().append_only(Fsync::EverySecond).data_directory(directory.path());
    let redis = settings.clone().start().await.unwrap();
    redis.command(&[b"SET".as_slice(), b"k", b"\xff\x00"]).await.unwrap();
    redis.shutdown().await.unwrap();
    drop(redis);
    let redis = settings.arg("--hz").arg("7").start().await.unwrap();
    assert_eq!(redis.command(&["GET", "k"]).await.unwrap(), Reply::Bulk(b"\xff\x00".as_slice().into()));
    let hz = redis.command(&["CONFIG", "GET", "hz"]).await.unwrap();
    assert_eq!(hz.items()[1].int(), Some(7));
}

#[tokio::test]
async fn a_failed_start_tells_the_log() {
    let redis = PrivateRedis::start().await.unwrap();
    let error = PrivateRedis::builder().port(redis.port()).start().await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("ended at once") && text.contains("Address already in use"), "{text}");
    let error = PrivateRedis::builder().arg("--nonsense").arg("1").start().await.unwrap_err();
    assert!(format!("{error:#}").contains("Bad directive"), "{error:#}");
    let error = PrivateRedis::builder().program("/nowhere/redis-server").start().await.unwrap_err();
    assert!(error.to_string().contains("no executable file"), "{error}");
}
