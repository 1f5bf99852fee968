use kith_policy::*; use std::sync::Arc;
fn rss()->usize{std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<usize>().unwrap()*4}
fn main(){
 let a=rss();
 let v:Vec<_>=(0..10000).map(|n|Arc::new(ValidPolicy::new(Policy{namespace:format!("team-{n}"),name:"access".into(),action:Action::Allow,rules:(0..10).map(|r|Rule{from:vec![Source{principals:vec![format!("cluster.local/ns/team-{n}/sa/service-{r}")],..Default::default()}],to:vec![Operation{ports:vec!["8080".into()],methods:vec!["GET".into(),"HEAD".into()],paths:vec![format!("/api/v{r}/*"),"/health".into()],..Default::default()}],when:vec![]}).collect()}).unwrap())).collect();
 let b=rss();
 let s=PolicySet::compile(&Mesh{trust_domain:"td".into(),..Default::default()},"1",&v);
 let c=rss();
 println!("valid {} KiB, set {} KiB",b-a,c-b); drop(s);
}
