//! All tests of real nodes, as one program: thirty programs take three times as long to compile, and gigabytes. `./test` runs
//! each test in a process of its own, so that what is static here is shared by nobody.

mod admission;
mod alarms;
mod auth;
mod cluster;
mod credentials;
mod dashboard;
mod edge;
mod flush;
mod gateway;
mod http_api;
mod lifecycle;
mod live_alarms;
mod logs;
mod malformed;
mod market;
mod memory;
mod metrics;
mod order;
mod overload;
mod postgres_suites;
mod rates;
mod redis_away;
mod redis_garbage;
mod redis_suites;
mod shutdown;
mod slow_clients;
mod soak;
mod socketio;
mod stores;
mod tdengine_suites;
mod top;
mod traces;
mod tuning;
mod vitals;
