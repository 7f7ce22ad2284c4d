-- How the webhooks of alerts go: what waits, what is tried again, what was given up, and what the receiver answered last.
--
-- Normal: sent, and for seconds queued, waiting or sending. Held is a wave that goes on: told already, and told again when its
-- time comes. Retrying for long, or given up: nobody was told; auth-api alerts test says what each receiver answers.
select q.state, q.kind, q.alerts, q.events, q.oldest_age, q.most_attempts, q.next_attempt_at, q.last_error
  from auth.alert_queue q
 order by q.state, q.kind;
