-- How the mail goes: what waits, what is tried again, what was given up, and what the mail server said last.
--
-- Normal: waiting and retrying are empty or seconds old. Given up (a dead letter) is somebody who got no link.
select q.state, q.kind, q.mails, q.oldest_age, q.most_attempts, q.next_attempt_at, q.last_error
  from auth.mail_queue q
 order by q.state, q.kind;
