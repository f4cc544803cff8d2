//! What must hold in a lane, and of what waits in a partition, between any two moves, read from Redis itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use postroad_testkit::redis::Reply;

use super::{LAYOUT, Road, Tag};

/// A queue: entries with their sizes, and who holds which.
#[derive(Default)]
struct Queue {
    sizes: BTreeMap<String, usize>,
    held: BTreeMap<String, String>,
}

impl Queue {
    fn in_place(&self, place: impl Fn(&str) -> bool) -> usize {
        self.held.values().filter(|name| place(name)).count()
    }
}

impl Road {
    /// Asserts that queues, pending entries, tries, timers, tokens, the live set and the dead letters of all
    /// lanes agree; and in all partitions due times, bodies and the count of their bytes.
    pub async fn check(&self) {
        for partition in 0..LAYOUT.partitions {
            let wrong = self.delayed_disagreements(partition).await;
            assert!(wrong.is_empty(), "partition {partition}:\n{}", wrong.join("\n"));
        }
        for lane in 0..LAYOUT.lanes {
            let wrong = self.disagreements(lane).await;
            assert!(wrong.is_empty(), "lane {lane}:\n{}", wrong.join("\n"));
        }
    }

    async fn disagreements(&self, lane: u16) -> Vec<String> {
        let mut wrong = Vec::new();
        let prefix = self.keys.prefix(Tag::Lane(lane)).to_owned();
        let key = |name: &str| format!("{prefix}{name}");
        let names: Vec<String> = self
            .texts(&["KEYS", &format!("{prefix}*")])
            .await
            .into_iter()
            .map(|name| name[prefix.len()..].to_owned())
            .collect();
        let of = |kind: &str| -> Vec<String> {
            names.iter().filter_map(|name| name.strip_prefix(kind)).map(str::to_owned).collect()
        };
        let set = async |name: &str| -> BTreeSet<String> {
            self.texts(&["SMEMBERS", &key(name)]).await.into_iter().collect()
        };
        let (live, deads) = (set("live").await, set("deads").await);
        let timers: BTreeSet<String> =
            self.texts(&["ZRANGE", &key("timers"), "0", "-1"]).await.into_iter().collect();
        let mut tokens: HashMap<String, Vec<String>> = HashMap::new();
        for row in self.redis(&["XRANGE", &key("ready"), "-", "+"]).await.items() {
            let sub = row.items()[1].items()[1].text().unwrap();
            tokens.entry(sub).or_default().push(row.items()[0].text().unwrap());
        }

        let mut queues: BTreeMap<String, BTreeMap<String, Queue>> = BTreeMap::new();
        for name in of("work:") {
            let (sub, rank) = name.rsplit_once(':').unwrap();
            let queue = self.queue_at(&key(&format!("work:{name}"))).await;
            for (id, place) in &queue.held {
                if !queue.sizes.contains_key(id) {
                    wrong.push(format!("{name}: {id} is pending at {place} but not in the stream"));
                }
                if place == "later" || place == "ack" {
                    let timer = format!("{place}:{sub}:{rank}:{id}");
                    if !timers.contains(&timer) {
                        wrong.push(format!("{timer} is missing"));
                    }
                } else if place != "again" && place != "held" && !place.starts_with("w-") {
                    wrong.push(format!("{name}: {place} is no place"));
                }
            }
            queues.entry(sub.to_owned()).or_default().insert(rank.to_owned(), queue);
        }

        for (sub, ranks) in &queues {
            wrong.extend(self.disorder(&prefix, sub, ranks).await);
            let length: usize = ranks.values().map(|queue| queue.sizes.len()).sum();
            let tried = self.texts(&["HKEYS", &key(&format!("tries:{sub}"))]).await;
            for name in tried {
                let (rank, id) = name.split_once(':').unwrap();
                if !ranks.get(rank).is_some_and(|queue| queue.sizes.contains_key(id)) {
                    wrong.push(format!("tries:{sub} knows {name}, which is in no queue"));
                }
            }
            if length > 0 && !live.contains(sub) {
                wrong.push(format!("{sub} has {length} entries and is not live"));
            }
            let pairs = self.texts(&["HGETALL", &key(&format!("sub:{sub}"))]).await;
            let fields: HashMap<&str, &str> =
                pairs.chunks(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
            let number = |name: &str| fields.get(name).and_then(|text| text.parse::<usize>().ok());
            let bytes: usize = ranks.values().flat_map(|queue| queue.sizes.values()).sum();
            if number("bytes").unwrap_or(0) != bytes {
                wrong.push(format!("{sub}: {bytes} bytes lie there, {:?} are counted", fields.get("bytes")));
            }

            let cap = number("cap").unwrap_or(1);
            let limit = number("limit").map_or(cap, |limit| limit.min(cap));
            let due = ranks
                .values()
                .map(|queue| queue.sizes.len() - queue.held.len() + queue.in_place(|name| name == "again"))
                .sum::<usize>();
            let busy =
                ranks.values().map(|queue| queue.in_place(|name| name == "ack" || name.starts_with("w-")));
            let now = usize::try_from(self.now().await).unwrap();
            let is_paced = timers.contains(&format!("rate:{sub}"));
            let ready = fields.get("status") == Some(&"active")
                && !is_paced
                && number("hold").unwrap_or(0) <= now
                && limit > busy.sum::<usize>()
                && due > 0;
            let its = tokens.remove(sub).unwrap_or_default();
            match fields.get("token") {
                Some(token) if its != [(*token).to_owned()] => {
                    wrong.push(format!("{sub} counts on token {token}, ready has {its:?}"));
                }
                None if ready => wrong.push(format!("{sub} has work and credit but no token")),
                None if !its.is_empty() => wrong.push(format!("{sub} knows nothing of tokens {its:?}")),
                _ => {}
            }
        }
        for sub in tokens.keys() {
            wrong.push(format!("a token of {sub}, which has no queue"));
        }
        let dead: BTreeSet<String> = of("dead:").into_iter().collect();
        if dead != deads {
            wrong.push(format!("dead letters of {dead:?}, listed {deads:?}"));
        }
        wrong
    }

    /// Locks, who waits behind them, and what is to expire.
    async fn disorder(&self, prefix: &str, sub: &str, ranks: &BTreeMap<String, Queue>) -> Vec<String> {
        let mut wrong = Vec::new();
        let locks = self.texts(&["HGETALL", &format!("{prefix}locks:{sub}")]).await;
        let there = |name: &str| {
            let (rank, id) = name.split_once(':').unwrap_or_default();
            ranks.get(rank).is_some_and(|queue| queue.sizes.contains_key(id))
        };
        let mut keys = BTreeSet::new();
        for pair in locks.chunks(2) {
            keys.insert(pair[0].clone());
            if !there(&pair[1]) {
                wrong.push(format!("locks:{sub}: {} is held by {}, which is in no queue", pair[0], pair[1]));
            }
        }
        let mut waiting: Vec<String> = ranks
            .values()
            .flat_map(|queue| queue.held.iter().filter(|(_, place)| *place == "held"))
            .map(|(id, _)| id.clone())
            .collect();
        let members = self.texts(&["ZRANGE", &format!("{prefix}held:{sub}"), "0", "-1"]).await;
        let mut noted: Vec<String> = members
            .iter()
            .map(|member| {
                let (key, id) = member.split_once(':').unwrap();
                if !keys.contains(key) {
                    wrong.push(format!("held:{sub}: {member} waits behind no lock"));
                }
                let (ms, seq) = id.split_once('-').unwrap();
                format!("{}-{}", ms.parse::<u64>().unwrap(), seq.parse::<u64>().unwrap())
            })
            .collect();
        waiting.sort();
        noted.sort();
        if waiting != noted {
            wrong.push(format!("{sub}: held are {waiting:?}, noted {noted:?}"));
        }
        for name in self.texts(&["ZRANGE", &format!("{prefix}expiry:{sub}"), "0", "-1"]).await {
            if !there(&name) {
                wrong.push(format!("expiry:{sub} knows {name}, which is in no queue"));
            }
        }
        wrong
    }

    async fn delayed_disagreements(&self, partition: u16) -> Vec<String> {
        let mut wrong = Vec::new();
        let set = self.partition_key(partition, "delayed");
        let due: BTreeSet<String> = self.texts(&["ZRANGE", &set, "0", "-1"]).await.into_iter().collect();
        let (mut bodies, mut bytes) = (BTreeSet::new(), 0);
        for key in self.texts(&["KEYS", &format!("{set}:*")]).await {
            let slot: u32 = key.rsplit_once(':').unwrap().1.parse().unwrap();
            for field in self.texts(&["HKEYS", &key]).await {
                bytes += self.number(&["HSTRLEN", &key, &field]).await;
                let member = due.iter().find(|member| member.split_once(':').unwrap().1 == field);
                match member {
                    Some(member)
                        if member.split_once(':').unwrap().0.parse::<u32>().unwrap() % 1_024 == slot =>
                    {
                        bodies.insert(member.clone());
                    }
                    _ => wrong.push(format!("{key} holds {field}, which is never due there")),
                }
            }
        }
        wrong.extend(due.difference(&bodies).map(|member| format!("{member} is due and has no body")));
        let counted = self.redis(&["HGET", &self.partition_key(partition, "door"), "delayed"]).await;
        let counted = counted.text().map_or(0, |text| text.parse().unwrap());
        if counted != bytes {
            wrong.push(format!("{bytes} bytes wait, {counted} are counted"));
        }
        wrong
    }

    async fn queue_at(&self, key: &str) -> Queue {
        let mut queue = Queue::default();
        for row in self.redis(&["XRANGE", key, "-", "+"]).await.items() {
            let fields: Vec<&Reply> = row.items()[1].items().iter().collect();
            let m = fields.chunks(2).find(|pair| pair[0].text().as_deref() == Some("m"));
            let size = m.and_then(|pair| pair[1].text()).map_or(0, |text| text.len());
            queue.sizes.insert(row.items()[0].text().unwrap(), size);
        }
        // A queue without its group is one in which everything waits.
        let Ok(pending) = self.redis.command(&["XPENDING", key, "g", "-", "+", "1000000"]).await else {
            return queue;
        };
        for row in pending.items() {
            queue.held.insert(row.items()[0].text().unwrap(), row.items()[1].text().unwrap());
        }
        queue
    }
}
