-- From 0.1.0 to 0.2.0: what holds data, and what goes. Functions, views, triggers, policies and grants follow by
-- themselves, from sql/; a function whose arguments or result changed, or a view that lost a column, is dropped here.

