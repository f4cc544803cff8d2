//! job: replay jobs and who runs them.

use super::kit::*;
use postroad_model::names::Tenant;
use postroad_store::{JobState, StoreError, keys::Tag};

const LEASE: u64 = 10_000;

async fn make(road: &Road, id: &str, owner: Option<&str>) -> Result<Option<u64>, StoreError> {
    road.store.make_job(id, &Tenant::single(), "{\"n\":1}", "plan", owner, 2).await
}

fn job_key(road: &Road, id: &str) -> String {
    road.keys.key(Tag::Ctl, &format!("job:{id}"))
}

#[tokio::test]
async fn a_job_is_made_run_and_ended_once() {
    let road = Road::new().await;
    let store = &road.store;
    assert_eq!(make(&road, "job_1", None).await.unwrap(), None);
    let twice = make(&road, "job_1", None).await.unwrap_err();
    assert!(matches!(twice, StoreError::Conflict(_)));
    let job = store.job("job_1").await.unwrap().unwrap();
    assert_eq!((job.state, job.spec.as_str(), job.moved), (JobState::Waiting, "{\"n\":1}", None));
    assert!(job.state.is_open() && job.made_ms > 0 && job.changed_ms == job.made_ms);
    assert_eq!(store.job_plan("job_1").await.unwrap(), "plan");

    assert!(!store.save_job("job_1", "r-1", JobState::Running, "c", "").await.unwrap(), "nobody took it");
    assert_eq!(store.take_job("job_1", "r-1", LEASE).await.unwrap().as_deref(), Some("job_1@1"));
    assert_eq!(store.take_job("job_1", "r-2", LEASE).await.unwrap(), None, "it is somebody's");
    assert_eq!(
        store.take_job("job_1", "r-1", LEASE).await.unwrap().as_deref(),
        Some("job_1@2"),
        "its own, anew"
    );
    assert!(!store.save_job("job_1", "r-2", JobState::Done, "", "").await.unwrap());
    for _ in 0..2 {
        assert!(store.save_job("job_1", "r-1", JobState::Running, "half", "so far").await.unwrap());
    }
    let job = store.job("job_1").await.unwrap().unwrap();
    assert_eq!((job.state, job.cursor.as_str(), job.note.as_str()), (JobState::Running, "half", "so far"));
    let open = store.end_job("job_1").await.unwrap_err();
    assert!(matches!(open, StoreError::Conflict(_)), "what is open is not ended");

    assert!(store.save_job("job_1", "r-1", JobState::Done, "", "all").await.unwrap());
    assert!(!store.save_job("job_1", "r-1", JobState::Running, "", "").await.unwrap(), "done is done");
    assert_eq!(store.take_job("job_1", "r-1", LEASE).await.unwrap(), None);
    let moved = road.keys.key(Tag::Lane(1), "jobs");
    road.redis(&["HSET", &moved, "job_1", "7"]).await;
    for _ in 0..2 {
        store.end_job("job_1").await.unwrap();
        assert_eq!(store.job("job_1").await.unwrap().unwrap().moved, Some(7), "the first note counts");
    }
    assert_eq!(store.job_plan("job_1").await.unwrap(), "");
    assert_eq!(road.number(&["HLEN", &moved]).await, 0);
    assert!(road.number(&["PTTL", &job_key(&road, "job_1")]).await > 86_400_000);
}

#[tokio::test]
async fn a_runner_that_fell_silent_is_overtaken() {
    let road = Road::new().await;
    let store = &road.store;
    make(&road, "job_1", Some("r-1")).await.unwrap();
    assert_eq!(store.job("job_1").await.unwrap().unwrap().state, JobState::Running);
    assert_eq!(store.take_job("job_1", "r-2", LEASE).await.unwrap(), None, "made for another");
    let key = job_key(&road, "job_1");
    let now = road.now().await;
    for (renewed, free) in [(now - LEASE / 2, false), (now - LEASE - 1, true)] {
        road.redis(&["HSET", &key, "renewed", &renewed.to_string()]).await;
        assert_eq!(store.look_at_jobs(LEASE, 9).await.unwrap().0.len(), usize::from(free));
        assert_eq!(store.take_job("job_1", "r-2", LEASE).await.unwrap().is_some(), free);
    }
    assert!(!store.save_job("job_1", "r-1", JobState::Running, "late", "").await.unwrap());
    assert_eq!(store.job("job_1").await.unwrap().unwrap().cursor, "");
    // A clock that was set back leaves a renewal from the future.
    road.redis(&["HSET", &key, "renewed", &(now + 60_000).to_string()]).await;
    assert!(store.take_job("job_1", "r-3", LEASE).await.unwrap().is_some());
}

#[tokio::test]
async fn a_stopped_job_stays_stopped() {
    let road = Road::new().await;
    let store = &road.store;
    assert_eq!(store.stop_job("job_0").await.unwrap(), None);
    make(&road, "job_1", Some("r-1")).await.unwrap();
    assert_eq!(store.stop_job("job_1").await.unwrap(), Some(JobState::Running));
    assert_eq!(store.stop_job("job_1").await.unwrap(), Some(JobState::Stopped));
    assert!(!store.save_job("job_1", "r-1", JobState::Running, "on and on", "").await.unwrap());
    assert_eq!(store.take_job("job_1", "r-1", LEASE).await.unwrap(), None);
    assert_eq!(store.look_at_jobs(LEASE, 9).await.unwrap().0, ["job_1"], "somebody must end it");
    store.end_job("job_1").await.unwrap();
    let (ids, states) = store.look_at_jobs(LEASE, 9).await.unwrap();
    assert_eq!((ids.len(), states), (0, vec![(JobState::Stopped, 1)]));
}

#[tokio::test]
async fn what_is_no_job_is_nobodys() {
    let road = Road::new().await;
    let store = &road.store;
    assert!(store.job("job_0").await.unwrap().is_none());
    assert_eq!(store.take_job("job_0", "r-1", LEASE).await.unwrap(), None);
    assert!(!store.save_job("job_0", "r-1", JobState::Done, "", "").await.unwrap());
    store.end_job("job_0").await.unwrap();
    assert_eq!(store.look_at_jobs(LEASE, 9).await.unwrap(), (vec![], vec![]));
    assert!(store.jobs(0).await.unwrap().is_empty() && store.job_records(&[]).await.unwrap().is_empty());
    assert_eq!(road.number(&["EXISTS", &job_key(&road, "job_0")]).await, 0);
    road.redis(&["HSET", &job_key(&road, "job_9"), "tenant", "default", "state", "asleep"]).await;
    assert!(matches!(store.job("job_9").await.unwrap_err(), StoreError::Reply(_)));
    road.redis(&["HSET", &job_key(&road, "job_9"), "tenant", "no tenant!"]).await;
    assert!(matches!(store.job("job_9").await.unwrap_err(), StoreError::Reply(_)));
}

#[tokio::test]
async fn a_tenant_has_so_many_open_jobs() {
    let road = Road::new().await;
    let store = &road.store;
    for id in ["job_1", "job_2"] {
        assert_eq!(make(&road, id, None).await.unwrap(), None);
    }
    assert_eq!(make(&road, "job_3", None).await.unwrap(), Some(2));
    assert!(store.job("job_3").await.unwrap().is_none());
    let other = Tenant::new("other").unwrap();
    assert_eq!(store.make_job("job_4", &other, "{}", "", None, 2).await.unwrap(), None);
    store.stop_job("job_1").await.unwrap();
    assert_eq!(make(&road, "job_3", None).await.unwrap(), None);
    let (ids, mut states) = store.look_at_jobs(LEASE, 2).await.unwrap();
    states.sort_by_key(|(state, _)| state.as_str());
    assert_eq!((ids.len(), states), (2, vec![(JobState::Stopped, 1), (JobState::Waiting, 3)]));
    let mut newest = store.jobs(9).await.unwrap();
    newest.sort();
    assert_eq!(newest, ["job_1", "job_2", "job_3", "job_4"]);
    assert_eq!(store.jobs(3).await.unwrap().len(), 3);
    assert_eq!(store.job_records(&newest).await.unwrap().len(), 4);
}

/// Beyond a thousand records those that have ended go, oldest first; open ones never do.
#[tokio::test]
async fn old_records_make_room() {
    let road = Road::new().await;
    let list = road.keys.key(Tag::Ctl, "job-list");
    let fill = "for n = 1, 1005 do
        local id = string.format('old_%04d', n)
        redis.call('ZADD', KEYS[1], n, id)
        if n ~= 3 then redis.call('HSET', KEYS[2] .. id, 'tenant', 'x', 'state', 'done') end
        if n % 2 == 0 then redis.call('HSET', KEYS[2] .. id, 'ended', '1') end
    end";
    road.redis(&["EVAL", fill, "2", &list, &job_key(&road, "")]).await;
    assert_eq!(make(&road, "job_1", None).await.unwrap(), None);
    let left = road.texts(&["ZRANGE", &list, "0", "9"]).await;
    // Without a record (3) or ended (2, 4, 6, 8): five too many.
    assert_eq!(left[..5], ["old_0001", "old_0005", "old_0007", "old_0009", "old_0010"].map(str::to_owned));
    assert_eq!(road.number(&["EXISTS", &job_key(&road, "old_0002")]).await, 0);
    assert_eq!(road.number(&["EXISTS", &job_key(&road, "old_0001")]).await, 1);
    assert_eq!(road.number(&["ZCARD", &list]).await, 1_001);
}
